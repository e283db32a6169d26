"""Build the request of a sweep over any command."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.config.validation import check_writable
from harness.core.credentials import hide_credentials, hide_secret_settings
from harness.core.errors import ConfigError, did_you_mean
from harness.record.sweep_files import STUDIES_FOLDER, name_study_folder
from harness.sweep.options import SweepOptions
from harness.sweep.programs import COMMAND
from harness.sweep.programs.command.command_line import ProgramCommandLine
from harness.sweep.programs.command.metrics import MetricSpec
from harness.sweep.programs.command.old_files import check_folders, check_shared_files
from harness.sweep.programs.command.slots import find_script_index
from harness.sweep.programs.command.template import CommandTemplate
from harness.sweep.programs.command.torchrun import read_n_processes
from harness.sweep.request import (
    BASIC_LAUNCHER,
    SweepRequest,
    WorkerPlan,
    check_sampler_and_pruner,
    count_space_points,
    list_gpus,
    plan_budget,
    plan_workers,
)
from harness.sweep.space.search_space import SearchSpace
from harness.sweep.study.components import read_pruner_node, read_sampler_node
from harness.sweep.study.spec import METRIC_SETTING, StudySpec

DEFAULT_OBJECTIVE = "loss"
"""Name of the objective if no metric is named: the validation loss, or else the training loss."""
OUTPUT_DIR = "outputs"
SIGNIFICANT_DIGITS = 6
"""Digits of suggested numbers: the command of a trial is short, and still the one that was run."""


@dataclass(frozen=True)
class CommandSweep:
    """The options of `plateau sweep` and its command.

    `baseline` are values of searched keys for trial 0 as `key=value`. `command` is the whole command line.
    """

    template: CommandTemplate
    metric: MetricSpec
    options: SweepOptions
    baseline: Sequence[str]
    sampler: str
    pruner: str
    seed: int
    max_failure_rate: float | None
    grace_seconds: float
    trial_seconds: float | None
    store_uri: str
    is_uploaded: bool
    experiment: str | None
    command: str


def build_command_request(asked: CommandSweep) -> SweepRequest:
    """Return the generic request of a sweep over a command.

    Raises:
        ConfigError: If a value is invalid.
    """
    template, cwd = asked.template, Path.cwd()
    space = SearchSpace(template.ranges, {}, {})
    spec = StudySpec(
        program=COMMAND,
        space=space.to_json(),
        custom_search_space=None,
        objectives=asked.options.objectives,
        directions=[asked.metric.direction],
        sampler=read_sampler_node("--sampler", asked.sampler),
        pruner=read_pruner_node("--pruner", asked.pruner),
        seed=asked.seed,
        warmup_share=0.0,
        keep=None,
        config=_list_settings(asked),
        digits=SIGNIFICANT_DIGITS,
    )
    check_sampler_and_pruner(spec, "--pruner", asked.pruner)
    check_folders(asked.metric.sources)
    current_values = read_baseline_values(asked.baseline, template)
    options, notices = _decide_baseline(asked.options, template, current_values, is_grid=spec.is_grid)
    study_name = options.study or _default_study_name(template)
    devices = options.devices_per_trial or read_n_processes(template.words)
    workers = plan_command_workers(options.n_jobs, cwd, devices)
    check_shared_files(asked.metric.sources, workers.n_jobs)
    return SweepRequest(
        options=options,
        spec=spec,
        program={
            "template": template.to_json(),
            "metric": asdict(asked.metric),
            "grace_seconds": asked.grace_seconds,
            "trial_seconds": asked.trial_seconds,
        },
        space=space,
        budget=plan_budget(options, spec, space, current_values, asked.max_failure_rate),
        study_name=study_name,
        folder=check_writable("outputs", cwd / OUTPUT_DIR / STUDIES_FOLDER / name_study_folder(study_name)),
        workers=workers,
        store_uri=asked.store_uri,
        is_uploaded=asked.is_uploaded,
        experiment=asked.experiment or name_study_folder(_default_study_name(template)),
        command_line=ProgramCommandLine(template, current_values),
        command=asked.command,
        description={"metric": _describe_metric(asked.metric)},
        current_values=current_values,
        n_points=count_space_points(spec, space),
        notices=notices,
    )


def plan_command_workers(n_jobs: int | None, cwd: Path, devices_per_trial: int | None) -> WorkerPlan:
    """Plan `n_jobs` workers, by default as many as there are GPUs for, or else one. The command starts its processes.

    Raises:
        ConfigError: If a trial needs more GPUs than there are.
    """
    gpus = list_gpus()
    n_jobs = n_jobs or len(gpus) // (devices_per_trial or 1) or 1
    workers = plan_workers(BASIC_LAUNCHER, n_jobs, gpus, cwd=str(cwd), devices_per_trial=devices_per_trial)
    workers = replace(workers, n_processes=1)
    return replace(workers, n_threads=None) if n_jobs == 1 else workers  # it may use all


def read_baseline_values(baseline: Sequence[str], template: CommandTemplate) -> dict[str, Any]:
    """Return the values of searched keys in the texts `key=value`.

    Raises:
        ConfigError: If one is no such text, or its key is not searched.
    """
    values = {}
    for text in baseline:
        key, is_set, value = text.partition("=")
        key = key.lstrip("-")
        if not is_set:
            raise ConfigError(f"--baseline {text}: write key=value, such as 'lr=3e-4 rank=8'")
        if key not in template.ranges:
            raise ConfigError(f"--baseline {text}: {key} is not searched{did_you_mean(key, template.ranges)}")
        values[key] = template.value_ranges[key].parse_argument(value)
    return values


def _decide_baseline(
    options: SweepOptions, template: CommandTemplate, current_values: Mapping[str, Any], *, is_grid: bool
) -> tuple[SweepOptions, tuple[str, ...]]:
    """Leave out trial 0 of a grid, and if the command cannot run without a searched value; return a note on that.

    Raises:
        ConfigError: If there is no trial 0 that could have the values of --baseline.
    """
    if current_values and (is_grid or not options.baseline):
        reason = "a grid runs its own points only" if is_grid else "--no-baseline leaves out trial 0"
        raise ConfigError(f"--baseline: {reason}; leave out one of them")
    if is_grid:
        return replace(options, baseline=False), ()
    missing = [key for key in template.required_keys if key not in current_values]
    if not missing or not options.baseline:
        return options, ()
    example = f"--baseline '{missing[0]}=VALUE'"
    note = f"{', '.join(missing)} cannot be left out of the command, so it is not run as trial 0; {example} sets it"
    return replace(options, baseline=False), (note,)


def _list_settings(asked: CommandSweep) -> dict[str, str]:
    """Return what all trials of the study must share. Credentials may change, and are not stored."""
    template = asked.template
    public = hide_secret_settings(template.variables)
    variables = {f"variable {name}": text for name, text in public.items() if name in template.settings}
    return {"command": template.fixed_command, **variables, METRIC_SETTING: _describe_metric(asked.metric)}


def _describe_metric(metric: MetricSpec) -> str:
    """Return which metric is read and where, in words."""
    name = metric.metric or "validation loss"
    where = " and ".join(map(hide_credentials, metric.sources)) if metric.sources else "the output"
    is_said = re.match(rf"{metric.pick}(?![a-z])", name, re.IGNORECASE)  # of final_score
    return f"{name} in {where}" if is_said else f"{metric.pick} {name} in {where}"


def _default_study_name(template: CommandTemplate) -> str:
    """Return the name of the script or module that the command runs."""
    name = Path(template.words[find_script_index(template.words)])
    return name.stem if name.suffix in (".py", ".sh") else name.name
