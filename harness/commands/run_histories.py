"""Histories of runs and logs by what a user calls them, for the commands that read curves."""

import re
from pathlib import Path

from harness import importers
from harness.core.errors import ConfigError, explain_path_error
from harness.diagnosis.history import History
from harness.importers.sources.standard_input import read_standard_input
from harness.record.run_lookup import RunNotFoundError, find_run

MLFLOW_RUN_ID = r"[0-9a-f]{32}"
STANDARD_INPUT = "-"
PLACEHOLDER = "RUN_OR_LOG"


def find_history_path(run: str, output_dir: Path) -> Path | None:
    """Return the path of a log or of a run's folder, None for an MLflow run id that no folder has recorded."""
    try:
        return find_run(run, output_dir, PLACEHOLDER)
    except ConfigError as error:
        if isinstance(error, RunNotFoundError) and re.fullmatch(MLFLOW_RUN_ID, run):
            return None
        problem = str(error).removeprefix(f"{PLACEHOLDER}: ").removeprefix(repr(run)).removeprefix(":").strip()
        raise ConfigError(f"{run}: {problem}") from error


def load_histories(run: str, path: Path | None, uri: str | None = None) -> list[History]:
    """Load the runs in the folder or log at `path`, or the MLflow run with the id `run`."""
    try:
        if path:
            return importers.read_histories(path)
        from harness.importers.programs.mlflow import read_mlflow_run

        if (history := read_mlflow_run(run, uri)) is not None:
            return [history]
    except (ValueError, OSError) as error:
        problem = explain_path_error(error) or str(error)
        raise ConfigError(problem if path and str(path) in problem else f"{run}: {problem}") from error
    raise ConfigError(f"{run}: not the id of a run in this MLflow store; name another with --uri")


def load_standard_input(folder: Path) -> list[History]:
    """Load the runs on standard input, of which a copy is made in `folder`."""
    try:
        return read_standard_input(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
