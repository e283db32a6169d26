"""The plan of an ablation: its configurations and seeds, fixed before any loss is seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from harness.evidence.ablation.changes import Change
from harness.evidence.confirm.plan import BASELINE, ConfirmedConfig
from harness.evidence.seed_runs import describe_failures
from harness.evidence.statistics.seed_comparison import CONFIDENCE
from harness.record.trial_record import Direction
from harness.sweep.seed_study import SeedRun, SeedStudyPlan

WINNER = "winner"


@dataclass(frozen=True)
class AblationPlan:
    """The baseline, the winner, and the changes between them, all run with the same seeds.

    The claim is about `metric`, which is that of the `split`. `objective` is what the sweep optimized, in `direction`.
    """

    baseline: ConfirmedConfig
    winner: ConfirmedConfig
    changes: tuple[Change, ...]
    seeds: tuple[int, ...]
    metric: str
    split: Literal["test", "validation"]
    objective: str
    direction: Direction
    n_measured: int | None
    confidence: float = CONFIDENCE

    @cached_property
    def configs(self) -> dict[str, ConfirmedConfig]:
        """All configurations by name. With two changes, the winner without one is the baseline with the other."""
        found = {BASELINE: self.baseline, WINNER: self.winner}
        for change in self.changes:
            name = self.forward_name(change)
            found[name] = ConfirmedConfig(name, change.apply_to(self.baseline.values))
        for change in self.changes:
            name = self.backward_name(change)
            if name not in found:
                found[name] = ConfirmedConfig(name, change.revert_in(self.winner.values))
        return found

    def forward_name(self, change: Change) -> str:
        """Return the name of the baseline with one change."""
        return f"{BASELINE} with {change.name}"

    def backward_name(self, change: Change) -> str:
        """Return the name of the winner without one change."""
        if len(self.changes) == 2:
            return self.forward_name(next(other for other in self.changes if other != change))
        return f"{WINNER} without {change.name}"

    @property
    def n_effects(self) -> int:
        """Number of effects of single changes, for whose number their intervals are corrected."""
        return 2 * len(self.changes)

    @property
    def n_interactions(self) -> int:
        """Number of interactions: one of two changes; of more, one each and that of all together."""
        return 1 if len(self.changes) == 2 else len(self.changes) + 1

    def list_settings(self) -> dict[str, str]:
        """Return what must not change once losses were seen, as texts."""
        return {
            "configurations": ", ".join(f"{name} {dict(config.values)}" for name, config in self.configs.items()),
            "seeds": ", ".join(map(str, self.seeds)),
            "metric": self.metric,
        }


@dataclass(frozen=True)
class Ablation:
    """An ablation to run: the plan, and the study of its runs. `study` is the sweep's name."""

    study: str
    plan: AblationPlan
    runs: SeedStudyPlan

    @property
    def folder(self) -> Path:
        return self.runs.folder

    @property
    def n_runs(self) -> int:
        return len(self.plan.configs) * len(self.plan.seeds)


def list_next_runs(plan: AblationPlan, runs: Sequence[SeedRun]) -> list[tuple[str, int]]:
    """Return the configurations and seeds to run next: all with the first seed, then all that have not failed.

    None if the baseline or the winner has failed.
    """
    by_run = {(run.config, run.seed): run for run in runs}
    first = [(name, plan.seeds[0]) for name in plan.configs]
    failed = list_failures(plan, runs)
    if BASELINE in failed or WINNER in failed:
        return []
    later = [(name, seed) for seed in plan.seeds[1:] for name in plan.configs if name not in failed]
    for wanted in (first, later):
        if missing := [run for run in wanted if run not in by_run or not by_run[run].is_over]:
            return missing
    return []


def list_failures(plan: AblationPlan, runs: Sequence[SeedRun]) -> dict[str, str]:
    """Return the configurations of which a run has no result, and why; a diverged run has one."""
    ended = {name: [run for run in runs if run.config == name and run.is_over] for name in plan.configs}
    reasons = {name: describe_failures(own, plan.metric) for name, own in ended.items()}
    return {name: reason for name, reason in reasons.items() if reason}
