"""A pruner that pauses trials at rungs instead of ending them, so that they can be continued later."""

from collections.abc import Sequence

from optuna.pruners import BasePruner, SuccessiveHalvingPruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from harness.sweep.study.rungs import FULL_RUN, place_rungs, to_rung


class PausingPruner(BasePruner):
    """Pause every trial at each rung; the best of a rung are continued.

    `harness.sweep.study.promotion` chooses which. A trial that cannot be continued, since its program has saved no
    checkpoint, is pruned by successive halving instead.

    Args:
        rungs: Where trials pause, in increasing order, as shares of what follows `start`.
        reduction_factor: One of so many trials at each rung is continued.
        project_every: One of so many promotions goes to the best trial by its value projected to the end of the run,
            since early values favor large learning rates (https://arxiv.org/abs/1803.02021), and in a conditional space
            another one to the least advanced option without a completed trial; None for none.
        start: Share of a run before which values say too little, such as the longest of several warm-ups.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        rungs: Sequence[float] = (0.04, 0.12, 0.36),
        reduction_factor: int = 3,
        project_every: int | None = 8,
        start: float = 0.0,
    ) -> None:
        if not rungs or any(not 0 < share < 1 for share in rungs) or list(rungs) != sorted(set(rungs)):
            raise ValueError(f"rungs: {list(rungs)} must be shares of a run between 0 and 1, in increasing order")
        if reduction_factor < 2:
            raise ValueError(f"reduction_factor: {reduction_factor} must be at least 2")
        if project_every is not None and project_every < 2:
            raise ValueError(f"project_every: {project_every} must be at least 2, or null")
        self.shares = place_rungs(rungs, start)
        if 0 in self.rungs or FULL_RUN in self.rungs or len(set(self.rungs)) < len(self.rungs):
            raise ValueError(f"rungs: {list(rungs)} must be at least 1% of a run apart, and from its start and end")
        self.reduction_factor, self.project_every = reduction_factor, project_every
        self._halving = SuccessiveHalvingPruner(min_resource=4, reduction_factor=4)

    @property
    def rungs(self) -> tuple[int, ...]:
        """The rungs in percent of a run."""
        return tuple(map(to_rung, self.shares))

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether to end a trial that cannot be continued."""
        return self._halving.prune(study, trial)
