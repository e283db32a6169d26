"""Runs of configurations of a sweep over fresh seeds, as confirmations and ablations make and read them."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from harness.core.errors import ConfigError
from harness.core.formatting import format_duration, format_number
from harness.record.trial_record import Direction
from harness.sweep.rerun import Rerun, RerunOptions
from harness.sweep.seed_study import SeedRun, SeedStudy, SeedStudyPlan, Summarize, Uploaded, set_aside_unseen_study
from harness.sweep.study.setup import StudyChangedError
from harness.sweep.study_run import MakeWorkers, StudyEnd
from harness.sweep.swept_study import SweptStudy

MIN_SEEDS = 3  # with fewer nothing can be shown
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class SeedRunOptions:
    """Options for runs on fresh seeds: their number, the budget, and how the program is run again.

    `command` is that of the user, for the record.
    """

    seeds: int = 5
    max_seconds: float | None = None
    max_tokens: int | None = None
    rerun: RerunOptions = field(default_factory=RerunOptions)
    command: str = ""

    def __post_init__(self) -> None:
        if self.seeds < MIN_SEEDS:
            raise ValueError(f"--seeds: {self.seeds} must be at least {MIN_SEEDS}")


class SeedRunOutcome(NamedTuple, Generic[ResultT]):
    """Result of runs on fresh seeds, and how the command that ran them ended."""

    result: ResultT
    end: StudyEnd


class Difference(Protocol):
    """A difference between configurations with its interval."""

    @property
    def difference(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def p(self) -> float: ...


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
    metric: str,
    options: SeedRunOptions,
) -> SeedStudyPlan:
    """Return the study of configurations of a sweep; its folder in that of the sweep is called by its `purpose`.

    `metric` is that of the claim. `settings` are further ones that must not change once runs were made.
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
        command=options.command,
        settings={**settings, "seed option": rerun.seed_key},
        max_seconds=options.max_seconds,
        max_tokens=options.max_tokens,
    )


def run_seed_study(
    plan: SeedStudyPlan,
    list_next_runs: Callable[[Sequence[SeedRun]], Sequence[tuple[str, int]]],
    record_result: Callable[[Sequence[SeedRun], StudyEnd], ResultT],
    list_uploaded: Callable[[ResultT], Uploaded],
    make_workers: MakeWorkers | None = None,
) -> SeedRunOutcome[ResultT]:
    """Make runs, round by round, until there is none to make next; a command that is repeated resumes.

    Args:
        list_next_runs: Returns the configurations and seeds to run after the runs so far.
        record_result: Writes the result of the runs so far and returns it.
        list_uploaded: Returns what MLflow shows of a result.
        make_workers: Returns the workers; by default processes on this machine.

    Raises:
        ConfigError: If the study was begun with another plan.
        RunFailedError: If files cannot be written.
    """

    def summarize(runs: Sequence[SeedRun], status: str) -> Uploaded:
        return list_uploaded(record_result(runs, StudyEnd(status, "")))

    study = _open_study(plan, summarize)
    while True:
        end = study.run(list_next_runs(study.list_runs()), make_workers)
        runs = study.list_runs()
        if end.status != "completed" or end.reason or not list_next_runs(runs):
            return SeedRunOutcome(record_result(runs, end), end)


def _open_study(plan: SeedStudyPlan, summarize: Summarize) -> SeedStudy:
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


def format_commands(plan: SeedStudyPlan, seed: int) -> dict[str, str]:
    """Return the commands of the configurations with a seed, by name."""
    line, key = plan.rerun.command_line, plan.rerun.seed_key
    return {name: line.format_command({**values, key: seed}) for name, values in plan.configs.items()}


def describe_commands(plan: SeedStudyPlan, seed: int, *, has_all: bool) -> list[str]:
    """Return where runs are made and the command of the first configuration, or those of all, in lines."""
    commands = list(format_commands(plan, seed).items())
    lines = [f"Command of {name}:\n  {command}" for name, command in (commands if has_all else commands[:1])]
    return [f"Runs in {plan.rerun.workers.cwd}", *lines]


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


def list_mean_metrics(runs: Sequence[SeedRun], configs: Iterable[str], metrics: Iterable[str]) -> dict[str, float]:
    """Return the means of metrics of configurations, by the names that MLflow shows."""
    pairs = itertools.product(configs, dict.fromkeys(metrics))
    means = {f"{config}/{metric}.mean": average_metric(runs, config, metric) for config, metric in pairs}
    return {name: value for name, value in means.items() if value is not None}


def list_difference_metrics(name: str, found: Difference) -> dict[str, float]:
    """Return the numbers of a difference that are finite, by the names that MLflow shows."""
    numbers = {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p}
    return {f"{name}/{key}": value for key, value in numbers.items() if math.isfinite(value)}


def format_values(runs: Sequence[SeedRun], config: str, metric: str) -> tuple[str, str]:
    """Return the mean of a metric over the runs of a configuration, and the value of each seed or its status."""
    average = average_metric(runs, config, metric)
    losses = [(run.status, run.read_loss(metric)) for run in runs if run.config == config and run.is_over]
    shown = [status if loss is None or math.isinf(loss) else format_number(loss) for status, loss in losses]
    return "no result" if average is None else format_number(average), ", ".join(shown) or "no run"


def describe_cost(runs: Sequence[SeedRun]) -> str:
    """Return what runs cost in a line."""
    tokens, seconds = sum(run.tokens for run in runs), sum(run.seconds for run in runs)
    amount = f"{tokens:,} tokens and " if tokens else ""
    return f"cost: {amount}{format_duration(seconds)} in {sum(run.is_over for run in runs)} runs"


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
