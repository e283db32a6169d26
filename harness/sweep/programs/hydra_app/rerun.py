"""Run configurations of a sweep over a Hydra app again."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.config.overrides import read_override_key
from harness.core.errors import ConfigError, did_you_mean
from harness.sweep.programs.hydra_app.command_line import SEED_KEY, AppCommandLine, list_seed_keys
from harness.sweep.programs.hydra_app.request import SWEPT_CONFIG, SWEPT_SPACE, plan_app_workers
from harness.sweep.request import BASIC_LAUNCHER, LOCAL_LAUNCHERS, list_gpus
from harness.sweep.rerun import Rerun, RerunOptions, check_test_metric
from harness.sweep.swept_study import SweptStudy


def prepare_app_rerun(study: SweptStudy, options: RerunOptions) -> Rerun:
    """Return what runs the app of a sweep again, by the command and in the folder that its workers had.

    Raises:
        ConfigError: If the app has no such key, or cannot be started again.
    """
    program = study.program
    _check_startable(study)
    check_test_metric(options.test_metric, study.spec.objectives)
    command_line = AppCommandLine(**program.settings["command_line"])
    seed_key, seed = _find_seed(study, options.seed_flag, command_line.kept)
    is_local = program.launcher in LOCAL_LAUNCHERS
    note = f"the sweep ran by hydra/launcher={program.launcher}; these runs are made on this machine"
    return Rerun(
        program={
            **program.settings,
            SWEPT_SPACE: dict(study.spec.space),
            SWEPT_CONFIG: dict(study.spec.config),
        },
        workers=plan_app_workers(
            BASIC_LAUNCHER,
            options.n_jobs or (program.n_jobs if is_local else None),
            list_gpus(),
            program.command,
            program.cwd,
            options.devices_per_trial or program.devices_per_trial,
        ),
        seed_key=seed_key,
        seed=seed,
        test_metric=options.test_metric,
        command_line=command_line,
        notices=() if is_local else (note,),
    )


def _check_startable(study: SweptStudy) -> None:
    """Check that the app can be started again, with all that it was started with.

    Raises:
        ConfigError: If it cannot.
    """
    program, head = study.program, f"STUDY: {study.name}"
    if reason := program.settings["missing_command"]:
        raise ConfigError(
            f"{head}: its trials ran in the process that started the sweep ({reason}), which cannot be started again; "
            "start the sweep as python app.py -m ... to confirm it"
        )
    if (unset := program.settings["unset"]) and study.baseline is None:
        raise ConfigError(
            f"{head}: has no baseline, since the configuration has no value for {', '.join(unset)}; "
            "give it one and run a new study"
        )
    if places := [place for place in program.hidden if place.startswith("command.")]:
        words = ", ".join(program.command[int(place.partition(".")[2])] for place in places)
        raise ConfigError(
            f"{head}: its command has a secret, which is not recorded: {words}; "
            "write it as ${oc.env:NAME} and run a new study"
        )
    if not Path(program.cwd).is_dir():
        raise ConfigError(f"{head}: the folder {program.cwd}, in which the app ran, does not exist; restore it")
    if shutil.which(program.command[0]) is None:
        raise ConfigError(f"{head}: {program.command[0]}: the interpreter of the app does not exist; restore it")


def _find_seed(study: SweptStudy, flag: str | None, kept: Sequence[str]) -> tuple[str, int | None]:
    """Return the key of the seed as an override is written, and the seed that the trials had, if it is known.

    Raises:
        ConfigError: If the configuration has no such key.
    """
    key = (flag or SEED_KEY).lstrip("+").removesuffix("=")
    config = study.spec.config
    searched = {one.lstrip("+"): one for one in study.spec.build_search_space().searched_keys}
    if key in searched:
        return searched[key], None
    is_of_searched_option = any(key.startswith(f"{group}.") for group in searched)
    if key not in config and not is_of_searched_option:
        if flag is not None:
            raise ConfigError(f"--seed-flag {flag}: the configuration has no such key{did_you_mean(key, config)}")
        seeds = list_seed_keys(config)
        example = f"; it has {', '.join(seeds)}" if seeds else ""
        raise ConfigError(
            f"--seed-flag: the configuration has no key seed{example}; "
            f"name its key, as in --seed-flag {seeds[0] if seeds else 'trainer.seed'}"
        )
    given = [one for one in kept if read_override_key(one) == key]
    prefix = given[-1][: len(given[-1]) - len(given[-1].lstrip("+"))] if given else ""
    text = config.get(key, "")
    return prefix + key, int(text) if text.isdecimal() else None
