"""Runs of a tuning loop from the trials of a study."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError
from harness.evidence.judging.run_log import LoggedRun, RunLog
from harness.evidence.setting_differences import SEED_NAMES
from harness.record.sweep_files import JOURNAL_FILE, read_setting_key
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.results.summary import TrialSummary, read_objectives, summarize_trials
from harness.sweep.study.storage import load_journal_study
from harness.sweep.study.trial_attrs import SEED_RUN


def read_study_log(folder: Path, name: str) -> RunLog:
    """Return the trials of the study in a folder; those with equal values but for the seed are repeats.

    `name` is what the user calls it.

    Raises:
        ConfigError: If the study is in a database, is damaged, or no trial is over.
    """
    if not (folder / JOURNAL_FILE).is_file():
        raise ConfigError(f"TABLE: {folder}: has no {JOURNAL_FILE}; give the trials of a database as a table")
    silence_optuna()
    study = load_journal_study(folder)
    trials = [trial for trial in summarize_trials(study) if trial.is_over]
    if not trials:
        raise ConfigError(f"TABLE: {folder}: no trial is over yet; judge it later")
    objective, *others = read_objectives(study)
    attrs = [trial.user_attrs.get(SEED_RUN) for trial in study.get_trials(deepcopy=False)]
    baseline = next((_make_key(trial) for trial in trials if trial.is_baseline), None)
    runs = [_read_trial(trial, baseline, attrs[trial.number]) for trial in trials]
    return RunLog(
        source=str(folder),
        metric=objective,
        direction="maximize" if study.directions[0].name == "MAXIMIZE" else "minimize",
        runs=tuple(runs),
        notes=(f"judged by the first objective, {objective}",) if others else (),
        unit_name="trial",
        chooses_best=True,
        names_seeds=any(run.seed is not None for run in runs),
        rerun_command="" if any(attrs) else f"plateau confirm {shlex.quote(name)}",
    )


def _read_trial(trial: TrialSummary, baseline: str | None, seed_run: Mapping[str, Any] | None) -> LoggedRun:
    """Return a trial as a run; `seed_run` names the configuration and the seed of a trial of a confirmation."""
    key = str(seed_run["config"]) if seed_run else _make_key(trial)
    seed = str(seed_run["seed"]) if seed_run else _find_seed(trial)
    has_value = trial.status in ("completed", "added") and bool(trial.values)
    return LoggedRun(
        number=trial.number,
        name=f"trial {trial.number}",
        config=key,
        value=trial.values[0] if has_value else None,
        problem="" if has_value else f"it is {trial.status}" + f" ({trial.reason})" * bool(trial.reason),
        seed=seed,
        outcome="" if has_value else "crash",
        is_baseline=key == ("baseline" if seed_run else baseline),
    )


def _make_key(trial: TrialSummary) -> str:
    return json.dumps({key: value for key, value in sorted(trial.params.items()) if not _is_seed(key)}, default=str)


def _find_seed(trial: TrialSummary) -> str | None:
    return next((str(value) for key, value in trial.params.items() if _is_seed(key)), None)


def _is_seed(key: str) -> bool:
    return read_setting_key(key).rpartition(".")[2] in SEED_NAMES
