"""Sweeps that are simulated on recorded learning curves: how each proposes configurations and which it ends early."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from benchmarks.landscapes import Landscape, Ledger
from harness.sweep.optuna_internals import get_enqueued_params
from harness.sweep.space.search_space import SearchSpace
from harness.sweep.study.budget import Budget
from harness.sweep.study.components import read_pruner_node, read_sampler_node
from harness.sweep.study.pruning import TrialReporter
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.trial_attrs import STUDY_SPEC, TrialResult, has_checkpoint, read_trial_result
from harness.sweep.study.trial_queue import TrialQueue

N_STOCK_RUNS = 24


class RecordedSampler(BaseSampler):
    """Wrapper of a sampler that replaces each proposal by the nearest recorded configuration that is not used yet."""

    def __init__(self, sampler: BaseSampler, landscape: Landscape) -> None:
        self._sampler, self._landscape = sampler, landscape
        self.used: list[int] = []
        self.space: dict[str, BaseDistribution] = {
            f"x{column}": FloatDistribution(0.0, 1.0) for column in range(landscape.points.shape[1])
        }

    @property
    def is_exhausted(self) -> bool:
        return len(self.used) == len(self._landscape.points)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)
        if (fixed := get_enqueued_params(trial)) and not has_checkpoint(trial):  # Optuna asks for no other values
            point = np.array([fixed[name] for name in self.space])
            self.used.append(self._landscape.find_nearest(point, set(self.used)))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Choose the whole configuration here, since it has to be replaced as a whole."""
        if has_checkpoint(trial):  # it has its params
            return {}
        params = self._sampler.sample_relative(study, trial, self._sampler.infer_relative_search_space(study, trial))
        for name in [name for name in self.space if name not in params]:  # in order, so that seeds decide
            params[name] = self._sampler.sample_independent(study, trial, name, self.space[name])
        self.used.append(self._landscape.find_nearest(np.array([params[name] for name in self.space]), set(self.used)))
        return self.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return dict(zip(search_space, map(float, self._landscape.points[self.used[-1]]), strict=bool(search_space)))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is not in the space")

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)


IsOver = Callable[[Ledger], bool]


def run_with_pruner(
    ledger: Ledger,
    seed: int,
    is_over: IsOver,
    *,
    make_sampler: Callable[[int], BaseSampler],
    make_pruner: Callable[[], BasePruner] = NopPruner,
    rungs: Sequence[float] = (),
) -> None:
    """Run trials as plain Optuna does: each is evaluated at the rungs, besides, and ends where the pruner says so."""
    sampler = RecordedSampler(make_sampler(seed), ledger.landscape)
    study = optuna.create_study(study_name=f"replay-{seed}", sampler=sampler, pruner=make_pruner())
    while not (is_over(ledger) or sampler.is_exhausted):
        trial = study.ask(sampler.space)
        is_pruned = False
        for share in sorted({*rungs, *ledger.shares, 1.0}):
            loss = ledger.train(sampler.used[-1], share)
            trial.report(loss, round(100 * share))
            is_pruned = share < 1 and trial.should_prune()
            if is_pruned:
                break
        if is_pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, loss)


def run_queue(
    ledger: Ledger,
    seed: int,
    is_over: IsOver,
    *,
    sampler: str,
    pruner: Mapping[str, Any],
    enqueue: Callable[[Study, SearchSpace], None] = lambda study, space: None,
) -> None:
    """Run trials as the workers of our sweep do: with its queue, sampler, pruner, promotions and budget.

    `enqueue` may queue trials that run first.
    """
    ranges = {f"x{column}": FloatDistribution(0.0, 1.0) for column in range(ledger.landscape.points.shape[1])}
    space = SearchSpace(ranges, {}, {})
    spec = StudySpec(
        program="replay", space=space.to_json(), custom_search_space=None, objectives=["loss"],
        directions=["minimize"], sampler=read_sampler_node("sampler", sampler), pruner=pruner, seed=seed,
        warmup_share=ledger.landscape.longest_warmup, keep=None, config={}, digits=6,
        rung_start=ledger.landscape.longest_warmup,
    )  # fmt: skip
    recorded = RecordedSampler(spec.make_sampler(), ledger.landscape)
    study = optuna.create_study(study_name=f"replay-{seed}", sampler=recorded, pruner=spec.make_pruner())
    study.set_user_attr(STUDY_SPEC, asdict(spec))
    enqueue(study, space)
    with tempfile.TemporaryDirectory() as folder:
        queue = TrialQueue(study, space, Path(folder))
        queue.set_budget(Budget(n_trials=len(ledger.landscape.points), runs=N_STOCK_RUNS))
        configs: dict[int, int] = {}
        while not is_over(ledger) and (trial := queue.claim_trial()) is not None:
            config = configs.setdefault(trial.number, recorded.used[-1])
            queue.finish_trial(trial, _run_segment(ledger, config, trial, spec.list_rungs()))


def _run_segment(ledger: Ledger, config: int, trial: Trial, rungs: Sequence[float]) -> TrialResult:
    """Train a trial from where it was paused until it is paused again, pruned or complete."""
    reporter = TrialReporter(trial, ledger.landscape.longest_warmup)
    done = read_trial_result(trial).get("fraction_done", 0.0)
    loss = math.inf
    for share in sorted(share for share in {*rungs, *ledger.shares, 1.0} if share > done):
        loss = ledger.train(config, share)
        advice = reporter.report_share(loss, share, can_pause=True)
        if advice == "pause":
            return TrialResult("paused", fraction_done=share, checkpoint="kept")
        if advice == "prune":
            return TrialResult("pruned", fraction_done=share)
    return TrialResult("completed", values=(loss,), fraction_done=1.0)


def run_syne_tune(ledger: Ledger, seed: int, is_over: IsOver, *, method: str) -> None:
    """Run ASHA, which stops trials, or BOHB of syne-tune, if it is installed."""
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import uniform
    from syne_tune.optimizer import baselines

    names = [f"x{column}" for column in range(ledger.landscape.points.shape[1])]
    np.random.seed(seed)  # it draws brackets from the global generator
    scheduler = getattr(baselines, method)(
        {name: uniform(0.0, 1.0) for name in names}, metric="loss", time_attr="percent", max_t=100, grace_period=4,
        reduction_factor=3, random_seed=seed,
    )  # fmt: skip
    used: set[int] = set()
    while not is_over(ledger) and len(used) < len(ledger.landscape.points):
        proposed = scheduler.suggest().config
        config = ledger.landscape.find_nearest(np.array([proposed[name] for name in names]), used)
        recorded = dict(zip(names, map(float, ledger.landscape.points[config]), strict=True))
        trial = Trial(trial_id=len(used), config=recorded, creation_time=None)
        used.add(config)
        scheduler.on_trial_add(trial)
        for share in sorted({0.04, 0.12, 0.36, *ledger.shares, 1.0}):
            result = {"loss": ledger.train(config, share), "percent": round(100 * share)}
            if share == 1:
                scheduler.on_trial_complete(trial, result)
            elif scheduler.on_trial_result(trial, result) == "STOP":
                break


def make_tpe(seed: int) -> BaseSampler:
    """Return TPE as hydra-optuna-sweeper has it."""
    return TPESampler(seed=seed, n_startup_trials=10, multivariate=False, constant_liar=False)


PAUSING = read_pruner_node("pruner", "pausing")
Arm = Callable[[Ledger, int, IsOver], None]
HALVING = partial(SuccessiveHalvingPruner, reduction_factor=4)
ARMS: dict[str, Arm] = {
    "random": partial(run_with_pruner, make_sampler=RandomSampler),
    "stock": partial(run_with_pruner, make_sampler=make_tpe),
    "halving-20-80": partial(
        run_with_pruner, make_sampler=make_tpe, make_pruner=partial(HALVING, min_resource=20), rungs=(0.2, 0.8)
    ),
    "halving-4-16-64": partial(
        run_with_pruner, make_sampler=make_tpe, make_pruner=partial(HALVING, min_resource=4), rungs=(0.04, 0.16, 0.64)
    ),
    "hyperband": partial(
        run_with_pruner,
        make_sampler=make_tpe,
        make_pruner=partial(HyperbandPruner, min_resource=4, max_resource=100, reduction_factor=3),
        rungs=(0.04, 0.12, 0.36),
    ),
    "ours": partial(run_queue, sampler="curve", pruner=PAUSING),
    "ours-ranks": partial(run_queue, sampler="curve", pruner=PAUSING | {"project_every": None}),
    "random-pausing": partial(run_queue, sampler="random", pruner=PAUSING),
    "curve-halving": partial(run_queue, sampler="curve", pruner=read_pruner_node("pruner", "halving")),
    "syne-tune-asha": partial(run_syne_tune, method="ASHA"),
    "syne-tune-bohb": partial(run_syne_tune, method="BOHB"),
}
