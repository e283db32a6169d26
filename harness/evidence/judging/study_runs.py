"""Runs of a tuning loop from the trials of a study."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.digests import read_json
from harness.core.errors import ConfigError
from harness.evidence.ablation.result import ABLATION_FILE
from harness.evidence.comparing.setting_differences import is_seed_key
from harness.evidence.confirm.result import CONFIRM_FILE
from harness.evidence.judging.run_log import LoggedRun, RunLog
from harness.sweep.program_file import read_program
from harness.sweep.results.summary import TrialSummary, read_objectives, summarize_trials
from harness.sweep.study.recorded_study import open_recorded_study
from harness.sweep.study.trial_attrs import SEED_RUN


def read_study_log(folder: Path, name: str, storage: str | None = None) -> RunLog:
    """Return the trials of the study in a folder; those with equal values but for the seed are repeats.

    Args:
        name: What the user calls it.
        storage: Address of the study's database, which is only needed if it has a password.

    Raises:
        ConfigError: If the study cannot be read, or no trial is over.
    """
    program = read_program(folder)
    study = open_recorded_study(folder, program.study, storage or program.storage)
    trials = [trial for trial in summarize_trials(study) if trial.is_over]
    if not trials:
        raise ConfigError(f"TABLE: {folder}: no trial is over yet; judge it later")
    attrs = [trial.user_attrs.get(SEED_RUN) for trial in study.get_trials(deepcopy=False)]
    objectives = read_objectives(study)
    metric, notes = _find_metric(folder, objectives, is_seed_study=any(attrs))
    index = objectives.index(metric)
    baseline = next((_make_key(trial) for trial in trials if trial.is_baseline), None)
    runs = [_read_trial(trial, index, baseline, attrs[trial.number]) for trial in trials]
    return RunLog(
        source=str(folder),
        metric=metric,
        direction="maximize" if study.directions[index].name == "MAXIMIZE" else "minimize",
        runs=tuple(runs),
        notes=notes,
        unit_name="trial",
        chooses_best=True,
        names_seeds=any(run.seed is not None for run in runs),
        rerun_command="" if any(attrs) else f"plateau confirm {shlex.quote(name)}",
    )


def _find_metric(folder: Path, objectives: Sequence[str], is_seed_study: bool) -> tuple[str, tuple[str, ...]]:
    """Return the objective to judge by, and notes: the first, or what the claim of a confirmation is about.

    Raises:
        ConfigError: If the result of a confirmation does not say so.
    """
    if not is_seed_study:
        return objectives[0], (f"judged by the first objective, {objectives[0]}",) if len(objectives) > 1 else ()
    path = next((folder / name for name in (CONFIRM_FILE, ABLATION_FILE) if (folder / name).exists()), None)
    if path is None:
        raise ConfigError(f"TABLE: {folder}: has no {CONFIRM_FILE}; run plateau confirm again, which writes it")
    try:
        metric = str(read_json(path).get("metric"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); run plateau confirm again, which writes it") from error
    if metric not in objectives:
        raise ConfigError(f"{path}: metric: {metric}: no objective of the study; run plateau confirm again")
    return metric, (f"judged by {metric}, as {path.name} says; its own verdicts follow a rule that was fixed before",)


def _read_trial(trial: TrialSummary, index: int, baseline: str | None, seed_run: Mapping[str, Any] | None) -> LoggedRun:
    """Return a trial as a run with its value at `index`.

    `seed_run` names the configuration and the seed of a trial of a confirmation.
    """
    key = str(seed_run["config"]) if seed_run else _make_key(trial)
    seed = str(seed_run["seed"]) if seed_run else _find_seed(trial)
    has_value = trial.status in ("completed", "added") and bool(trial.values)
    return LoggedRun(
        number=trial.number,
        name=f"trial {trial.number}",
        config=key,
        value=trial.values[index] if has_value else None,
        problem="" if has_value else f"it is {trial.status}" + f" ({trial.reason})" * bool(trial.reason),
        seed=seed,
        outcome="" if has_value else "crash",
        is_baseline=key == ("baseline" if seed_run else baseline),
    )


def _make_key(trial: TrialSummary) -> str:
    return json.dumps({key: value for key, value in sorted(trial.params.items()) if not is_seed_key(key)}, default=str)


def _find_seed(trial: TrialSummary) -> str | None:
    return next((str(value) for key, value in trial.params.items() if is_seed_key(key)), None)
