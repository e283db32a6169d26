"""Tags of the MLflow runs that a program starts by itself, which MLflow takes from the environment."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TRIAL_FOLDER_TAG = "plateau.trial"
"""Tag of the MLflow runs that the program of a trial starts, with the folder of the trial as its value."""
CONTEXT_VARIABLE = "MLFLOW_RUN_CONTEXT"


def read_run_context(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that MLflow takes from the environment."""
    try:
        context = json.loads(environment.get(CONTEXT_VARIABLE, "{}"))
    except ValueError:
        return {}
    return context if isinstance(context, dict) else {}


def add_run_context(environment: Mapping[str, str], value: str) -> dict[str, str]:
    """Return the variable that gives runs the tag of a trial beside those that they get anyway."""
    return {CONTEXT_VARIABLE: json.dumps({**read_run_context(environment), TRIAL_FOLDER_TAG: value})}


@contextmanager
def tag_started_runs(folder: Path) -> Iterator[None]:
    """Let the MLflow runs that this process starts say that they belong to the trial in `folder`."""
    before = os.environ.get(CONTEXT_VARIABLE)
    os.environ.update(add_run_context(os.environ, str(folder.absolute())))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(CONTEXT_VARIABLE, None)
        else:
            os.environ[CONTEXT_VARIABLE] = before
