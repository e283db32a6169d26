"""What we write on Optuna's trials and studies beside what it keeps itself."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial

WORKER = "worker"
"""host, pid and started_at of the process that runs the trial."""
RESULT = "result"
"""What its run came to."""
RETRY_OF = "retry_of"
"""The number of the trial whose place it takes, which it does not take a second time of `n_trials`."""
RETRIES = "retries"
"""How many workers died of it before."""
BASELINE = "baseline"
OUT_OF_SPACE_VALUES = "overrides"
"""The present config as {key: value}, where it lies outside the space and has no parameters in Optuna's sense."""

STUDY_SPEC, BUDGET, STOP_REQUESTED, SWEEP_ID = "plan", "limits", "stop", "sweep_id"
"""Of a study: what makes trials comparable, how far to go, whether to stop, and the MLflow parent's identity."""


def trial_position(trials: Sequence[FrozenTrial], number: int) -> int:
    """The trial's place among those that count: a retry has that of the trial it repeats."""
    number = trials[number].user_attrs.get(RETRY_OF, number)
    return sum(RETRY_OF not in trial.user_attrs for trial in trials[:number])
