"""Plans of ablations of made-up changes, and runs with known effects and noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.evidence.ablation.changes import Change
from harness.evidence.ablation.plan import AblationPlan
from harness.evidence.confirm.plan import ConfirmedConfig
from harness.sweep.seed_study import SeedRun


def make_ablation_plan(n_changes: int, n_seeds: int = 5, direction: str = "minimize") -> AblationPlan:
    names = [f"c{index}" for index in range(n_changes)]
    return AblationPlan(
        baseline=ConfirmedConfig("baseline", dict.fromkeys(names, 0), 0, 3.0),
        winner=ConfirmedConfig("winner", dict.fromkeys(names, 1), 7, 2.0),
        changes=tuple(Change(name, {name: 0}, {name: 1}) for name in names),
        seeds=tuple(range(2001, 2001 + n_seeds)),
        metric="loss",
        split="test",
        objective="loss",
        direction=direction,  # type: ignore[arg-type]
        n_measured=24,
    )


def list_expected_losses(plan: AblationPlan, effects: Sequence[float], together: float = 0.0) -> dict[str, float]:
    """Return the loss of each configuration; `together` is what the first two changes make in addition."""
    found = {}
    for name, config in plan.configs.items():
        made = [config.values[change.name] for change in plan.changes]
        found[name] = 3 + float(np.dot(made, effects)) + together * made[0] * made[1]
    return found


def make_runs(plan: AblationPlan, losses: Mapping[str, Sequence[float | None]]) -> list[SeedRun]:
    """Return the runs with losses by seed: infinity for a diverged one, None for a failed one."""
    runs = []
    for name, values in losses.items():
        for seed, loss in zip(plan.seeds, values, strict=False):
            status = "failed" if loss is None else "completed" if np.isfinite(loss) else "diverged"
            known = {plan.metric: float(loss)} if loss is not None and status == "completed" else {}
            runs.append(SeedRun(name, seed, len(runs), status, "out of memory", known, 100, 1.0, Path()))
    return runs
