"""The plan of a confirmation, fixed before any loss of its fresh seeds is seen, and what follows from the losses."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import ConfigError
from harness.evidence.seed_runs import MIN_SEEDS, describe_failures, list_costs
from harness.evidence.statistics.candidates import compare_candidates
from harness.evidence.statistics.sample_differences import find_fewest_pairs, find_smallest_pair_level
from harness.evidence.statistics.seed_comparison import CONFIDENCE, SeedComparison
from harness.evidence.statistics.seed_plan import SeedPlan
from harness.record.trial_record import Direction
from harness.sweep.seed_study import SeedRun, SeedStudyPlan

BASELINE = "baseline"
FIRST_SEED, N_FIRST_SEEDS = 1_001, 1_000_000  # above the small seeds that programs have as their defaults


@dataclass(frozen=True)
class ConfirmedConfig:
    """A configuration to confirm: the values by key that it sets.

    `trial` is the trial of the sweep that it was, and `selected_value` the value of the objective there.
    """

    name: str
    values: Mapping[str, Any]
    trial: int | None = None
    selected_value: float | None = None


@dataclass(frozen=True)
class ConfirmPlan:
    """The baseline, the candidates, the seeds and the rule of decision.

    The claim is about `metric`, which is that of the `split`. `objective` is what the sweep optimized, in `direction`.
    `looks` are numbers of seeds at which the losses are compared. `n_measured` is the number of
    trials that the candidates were chosen from, None if they were named by the user.
    """

    baseline: ConfirmedConfig
    candidates: tuple[ConfirmedConfig, ...]
    seeds: tuple[int, ...]
    looks: tuple[int, ...]
    margin: float | None
    metric: str
    split: Literal["test", "validation"]
    objective: str
    direction: Direction
    n_measured: int | None
    confidence: float = CONFIDENCE

    @property
    def configs(self) -> dict[str, ConfirmedConfig]:
        return {config.name: config for config in (self.baseline, *self.candidates)}

    def list_settings(self) -> dict[str, str]:
        """Return what must not change once losses were seen, as texts."""
        names = ", ".join(f"{one.name} {dict(one.values)}" for one in (self.baseline, *self.candidates))
        return {
            "configurations": names,
            "seeds": ", ".join(map(str, self.seeds)),
            "looks": ", ".join(map(str, self.looks)),
            "margin": str(self.margin),
            "metric": self.metric,
        }


@dataclass(frozen=True)
class Confirmation:
    """A confirmation to run: the plan of decision, and the study of its runs. `study` is the sweep's name."""

    study: str
    plan: ConfirmPlan
    runs: SeedStudyPlan

    @property
    def folder(self) -> Path:
        return self.runs.folder

    @property
    def max_runs(self) -> int:
        """Number of runs if no candidate is decided early."""
        return len(self.plan.configs) * len(self.plan.seeds)


@dataclass(frozen=True)
class Verdict:
    """Result for a candidate. `difference` is candidate minus baseline in the unit of the metric, in its interval.

    `status` is "not shown" with a `reason` if some of its runs have no result.
    """

    candidate: str
    status: str
    difference: float
    low: float
    high: float
    p: float
    n: int
    comparison: SeedComparison | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return all fields in the unit of the metric; those of the comparison that are not losses are kept."""
        comparison = {} if self.comparison is None else asdict(self.comparison)
        own = {key: value for key, value in asdict(self).items() if key != "comparison"}
        return {**comparison, **own}


@dataclass(frozen=True)
class Evaluation:
    """Conclusions from the runs so far: the verdicts, the runs that are to be made next, and why none can be."""

    verdicts: Mapping[str, Verdict]
    next_runs: Sequence[tuple[str, int]] = ()
    failure: str = ""


def choose_looks(n_seeds: int, n_candidates: int, confidence: float = CONFIDENCE) -> tuple[int, ...]:
    """Return the numbers of seeds at which losses are compared in pairs by seed.

    A look at which nothing can be shown at its corrected level, whatever the losses, is left out.
    """
    looks = tuple(sorted({max(MIN_SEEDS, math.ceil(share * n_seeds)) for share in (0.5, 0.75)} | {n_seeds}))
    while len(looks) > 1:
        levels = SeedPlan(looks, confidence=1 - (1 - confidence) / n_candidates).levels
        useless = [n for n, level in zip(looks, levels, strict=True) if find_smallest_pair_level(n) > level]
        if not useless or useless == [n_seeds]:
            break
        looks = tuple(n for n in looks if n != useless[0] or n == n_seeds)
    return looks


def check_enough_seeds(n_seeds: int, n_candidates: int, confidence: float = CONFIDENCE) -> None:
    """Check that so many seeds can show something, corrected for the number of candidates.

    Raises:
        ConfigError: If they cannot, whatever the losses.
    """
    fewest = find_fewest_pairs((1 - confidence) / n_candidates)
    if n_seeds < fewest:
        raise ConfigError(
            f"--seeds: {n_seeds} seeds can show nothing for {n_candidates} candidates, whatever the losses; use "
            f"--seeds {fewest}, or fewer candidates"
        )


def choose_seeds(n_seeds: int, used: Iterable[int], settings: Mapping[str, str]) -> tuple[int, ...]:
    """Return seeds that no run of the sweep had.

    They follow from the `settings` of a plan: the same plan has the same ones, so that it can be resumed, and another
    plan has others, whose losses nobody has seen.
    """
    taken = set(used)
    digest = hashlib.sha256(json.dumps([n_seeds, dict(settings)], sort_keys=True).encode()).hexdigest()
    first = FIRST_SEED + int(digest, 16) % N_FIRST_SEEDS
    while not taken.isdisjoint(range(first, first + n_seeds)):
        first += n_seeds
    return tuple(range(first, first + n_seeds))


def evaluate_runs(plan: ConfirmPlan, runs: Sequence[SeedRun]) -> Evaluation:
    """Return the verdicts that the runs allow, and the runs that the next look needs."""
    by_run = {(run.config, run.seed): run for run in runs}
    open_names = [candidate.name for candidate in plan.candidates]
    verdicts: dict[str, Verdict] = {}
    for look in plan.looks:
        seeds = plan.seeds[:look]
        needed = [(name, seed) for seed in seeds for name in (plan.baseline.name, *open_names)]
        missing = [run for run in needed if run not in by_run or not by_run[run].is_over]
        if missing:
            return Evaluation(verdicts, missing)
        if failure := describe_failures([by_run[plan.baseline.name, seed] for seed in seeds], plan.metric):
            return Evaluation(verdicts, failure=f"baseline: {failure}")
        for name in list(open_names):
            if failure := describe_failures([by_run[name, seed] for seed in seeds], plan.metric):
                verdicts[name] = make_unknown_verdict(name, look, failure)
                open_names.remove(name)
        costs = {
            name: list_costs([by_run[name, seed] for seed in seeds], plan.metric, plan.direction)
            for name in (plan.baseline.name, *open_names)
        }
        for name, comparison in _compare_costs(plan, costs).items():
            if comparison.status != "not shown" or look == plan.looks[-1]:
                verdicts[name] = make_verdict(name, comparison, plan.direction)
                open_names.remove(name)
        if not open_names:
            break
    return Evaluation({one.name: verdicts[one.name] for one in plan.candidates if one.name in verdicts})


def _compare_costs(plan: ConfirmPlan, costs: Mapping[str, Sequence[float]]) -> dict[str, SeedComparison]:
    """Compare the candidates with the baseline at one look; lower costs are better."""
    candidates = {name: values for name, values in costs.items() if name != plan.baseline.name}
    baseline = costs[plan.baseline.name]
    if len(plan.looks) == 1:
        return compare_candidates(
            baseline, candidates, paired=True, margin=plan.margin, confidence=plan.confidence,
            n_without_result=len(plan.candidates) - len(candidates),
        )  # fmt: skip
    seed_plan = SeedPlan(plan.looks, confidence=1 - (1 - plan.confidence) / len(plan.candidates))
    return {
        name: seed_plan.decide(baseline, values, paired=True, margin=plan.margin).comparison
        for name, values in candidates.items()
    }


def make_verdict(name: str, comparison: SeedComparison, direction: Direction) -> Verdict:
    """Return a verdict in the unit of the metric, whose costs are negated where it is maximized."""
    difference, low, high = comparison.difference, comparison.low, comparison.high
    if direction == "maximize":
        difference, low, high = -difference, -high, -low
        comparison = replace(
            comparison,
            difference=difference, low=low, high=high,
            baseline_mean=-comparison.baseline_mean, candidate_mean=-comparison.candidate_mean,
        )  # fmt: skip
    return Verdict(name, comparison.status, difference, low, high, comparison.p, comparison.n, comparison)


def make_unknown_verdict(name: str, n_seeds: int, reason: str) -> Verdict:
    """Return the verdict on a candidate of which some runs have no result."""
    nan = math.nan
    return Verdict(name, "not shown", nan, nan, nan, nan, n_seeds, None, reason)
