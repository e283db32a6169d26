"""Folders of the configuration and of the results."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
TRACEBACK_FILE = "traceback.txt"  # in the folder of a run that failed


def config_dir() -> Path:
    """Return the folder of the shipped configuration: inside an installed package, beside it in a checkout."""
    packaged = PACKAGE / "conf"
    return packaged if packaged.is_dir() else PACKAGE.parent / "conf"


def is_checkout() -> bool:
    """Return whether this code is a checkout rather than an installed package."""
    return (PACKAGE.parent / "pyproject.toml").is_file()


def run_command() -> list[str]:
    """Return the command that starts a run: a checkout has run.py, an installed package only `plateau`."""
    return ["python", "run.py"] if is_checkout() else ["plateau", "run"]


def module_command(module: str) -> list[str]:
    """Return the command that runs a module of this package in a new process.

    An installed package is found without the current folder, whose files must not shadow the modules of Python.
    """
    return [sys.executable, *([] if is_checkout() else ["-P"]), "-m", module]


def project_dir() -> Path:
    """Return the folder that outputs/, .cache/, mlruns/ and mlflow.db are relative to.

    It is the root of a checkout, or the current folder if the package is installed.
    """
    return PACKAGE.parent if is_checkout() else Path.cwd()
