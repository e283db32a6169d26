"""Run configurations of a sweep over a command again."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError
from harness.sweep.programs.command.command_line import ProgramCommandLine
from harness.sweep.programs.command.environment import compare_environment
from harness.sweep.programs.command.old_files import check_shared_files
from harness.sweep.programs.command.process import check_program_exists
from harness.sweep.programs.command.reports import REPORTED
from harness.sweep.programs.command.request import plan_command_workers
from harness.sweep.programs.command.runner import read_chosen_metric
from harness.sweep.programs.command.seed_option import set_seed
from harness.sweep.programs.command.template import CommandTemplate
from harness.sweep.rerun import Rerun, RerunOptions, check_test_metric
from harness.sweep.swept_study import SweptStudy

VARIABLES = "settings.template.variables."
TRIAL_NUMBER = "{trial}"


def prepare_command_rerun(study: SweptStudy, options: RerunOptions) -> Rerun:
    """Return what runs the command of a sweep again, as it is recorded in the folder of the sweep.

    Raises:
        ConfigError: If the command takes no such seed, has a secret that is not known, or can no longer be run.
    """
    recorded = study.program.settings
    cwd = Path(study.program.cwd)
    if not cwd.is_dir():
        raise ConfigError(
            f"STUDY: {study.name}: the folder {cwd}, in which its program ran, does not exist; restore it"
        )
    template = _read_template(study)
    if study.baseline is None and template.required_keys:
        keys = ", ".join(template.required_keys)
        raise ConfigError(
            f"STUDY: {study.name}: has no baseline, since its command needs a value for {keys}; "
            f"run a new study with --baseline '{template.required_keys[0]}=VALUE'"
        )
    check_program_exists(template.words, cwd)
    seeded = set_seed(template, options.seed_flag)
    metric = {**recorded["metric"], "metric": recorded["metric"]["metric"] or _find_chosen_metric(study.folder)}
    check_test_metric(options.test_metric, [*study.spec.objectives, metric["metric"]])
    program = study.program
    n_devices = options.devices_per_trial or program.devices_per_trial
    workers = plan_command_workers(options.n_jobs or program.n_jobs, cwd, n_devices)
    check_shared_files(metric["sources"], workers.n_jobs)
    return Rerun(
        program={**recorded, "template": seeded.template.to_json(), "metric": metric},
        workers=workers,
        seed_key=seeded.key,
        seed=_read_seed(seeded.text, study),
        test_metric=options.test_metric,
        command_line=ProgramCommandLine(seeded.template, {}),
        notices=tuple(compare_environment(study.folder, seeded.template)),
    )


def _read_template(study: SweptStudy, environment: Mapping[str, str] = os.environ) -> CommandTemplate:
    """Return the command of a sweep, with the secret variables from the environment.

    Raises:
        ConfigError: If a secret is not there, or is no variable.
    """
    template: dict[str, Any] = dict(study.program.settings["template"])
    variables = dict(template["variables"])
    for place in study.program.hidden:
        name = place.removeprefix(VARIABLES)
        if name == place:
            raise ConfigError(
                f"STUDY: {study.name}: its command has a secret, which is not recorded: "
                f"{_describe_place(study, place)}; run a new study whose program reads it from a variable"
            )
        if name not in environment:
            raise ConfigError(
                f"{name}: is a secret of study {study.name}, which is not recorded; set the variable as in "
                f"{name}=... plateau confirm {study.name}"
            )
        variables[name] = environment[name]
    return CommandTemplate.from_json({**template, "variables": variables})


def _describe_place(study: SweptStudy, place: str) -> str:
    """Return the words around a hidden text, or where it stands."""
    parts = place.split(".")
    if parts[:3] != ["settings", "template", "words"]:
        return place.removeprefix("settings.")
    words, index = study.program.settings["template"]["words"], int(parts[3])
    return " ".join(words[max(0, index - 1) : index + 1])


def _find_chosen_metric(folder: Path) -> str | None:
    """Return the metric that the trials of a sweep were read by where the user named none."""
    chosen = read_chosen_metric(folder).get("name")
    return None if chosen == REPORTED else chosen


def _read_seed(text: str, study: SweptStudy) -> int | None:
    """Return the seed that the trials had, the largest one if they had several; None if it is unknown."""
    if text == TRIAL_NUMBER:
        return max(trial.number for trial in study.trials)
    return int(text) if text.isdecimal() else None
