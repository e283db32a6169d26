"""Runs of configurations of a sweep over fresh seeds, as confirmations and ablations make and read them."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, Protocol

from harness.core.errors import ConfigError
from harness.record.trial_record import Direction
from harness.sweep.rerun import Rerun
from harness.sweep.seed_study import SeedRun, SeedStudy, SeedStudyPlan, Summarize, set_aside_unseen_study
from harness.sweep.study.setup import StudyChangedError
from harness.sweep.swept_study import SweptStudy


class NamedValues(Protocol):
    """A configuration: the values by key that it sets."""

    @property
    def values(self) -> Mapping[str, Any]: ...


def plan_seed_study(
    study: SweptStudy,
    purpose: str,
    rerun: Rerun,
    configs: Mapping[str, NamedValues],
    settings: Mapping[str, str],
    *,
    metric: str,
    command: str,
    max_seconds: float | None,
    max_tokens: int | None,
) -> SeedStudyPlan:
    """Return the study of configurations of a sweep; its folder in that of the sweep is called by its `purpose`.

    `metric` is that of the claim, and `command` that of the user. `settings` are further ones that must not change once
    runs were made.
    """
    return SeedStudyPlan(
        name=f"{study.name} {purpose}",
        folder=study.folder / purpose,
        storage=study.storage,
        spec=study.spec,
        rerun=rerun,
        configs={name: config.values for name, config in configs.items()},
        store_uri=study.store_uri,
        experiment=study.experiment,
        is_uploaded=study.is_uploaded,
        metric=metric,
        command=command,
        settings={**settings, "seed option": rerun.seed_key},
        max_seconds=max_seconds,
        max_tokens=max_tokens,
    )


def open_seed_study(plan: SeedStudyPlan, summarize: Summarize) -> SeedStudy:
    """Create or open the study.

    Raises:
        ConfigError: If it was begun with another plan and has losses, or cannot be opened.
    """
    try:
        return SeedStudy(plan, summarize)
    except StudyChangedError as error:
        if set_aside_unseen_study(plan):
            return SeedStudy(plan, summarize)
        changes = "\n".join(error.changes)
        in_database = f", remove the study {plan.name!r} from its database" if plan.storage else ""
        raise ConfigError(
            f"{plan.folder}: was begun with another plan, and its losses have been seen:\n{changes}\n"
            f"use the same options, or move the folder away{in_database}; another plan gets other seeds"
        ) from error


def list_searched_seeds(study: SweptStudy, seed_key: str) -> list[int]:
    """Return the seeds of trials of a sweep that searched the seed too."""
    searched = [trial.params.get(seed_key) for trial in study.trials]
    return [seed for seed in searched if isinstance(seed, int)]


def list_costs(runs: Sequence[SeedRun], metric: str, direction: Direction) -> list[float]:
    """Return a metric of runs such that lower is better; infinity for one that diverged or has none."""
    sign = -1 if direction == "maximize" else 1
    losses = [run.read_loss(metric) for run in runs]
    return [math.inf if loss is None or not math.isfinite(loss) else sign * loss for loss in losses]


def average_metric(runs: Sequence[SeedRun], config: str, metric: str) -> float | None:
    """Return the mean of a metric over the completed runs of a configuration, None if there is none."""
    values = [run.values[metric] for run in runs if run.config == config and metric in run.values]
    finite = [value for value in values if math.isfinite(value)]
    return mean(finite) if finite else None


def describe_failures(runs: Sequence[SeedRun], metric: str) -> str:
    """Return which runs have no result and why, or an empty string; a diverged run has one."""
    failed = [run for run in runs if run.read_loss(metric) is None]
    if not failed:
        return ""
    return f"{len(failed)} of {len(runs)} runs {failed[0].status}: {failed[0].reason or 'no reason was recorded'}"


def run_to_json(run: SeedRun) -> dict[str, Any]:
    """Return a run as in confirm.json and ablation.json."""
    return {
        "seed": run.seed,
        "trial": run.trial,
        "folder": run.folder.name,
        "status": run.status,
        "reason": run.reason,
        "values": dict(run.values),
        "tokens": run.tokens,
        "seconds": run.seconds,
    }
