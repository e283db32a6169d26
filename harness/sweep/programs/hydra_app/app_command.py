"""Find the command that started the running app, so that workers can be started by it too."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.config.hydra_internals import parse_hydra_arguments
from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError

MULTIRUN_OVERRIDE = "hydra.mode=MULTIRUN"
"""Added to the overrides by Hydra if the command line has -m."""
_PYTHON_OPTION = re.compile(
    r"-(?P<flags>[bBdEhiIOPqRsSuvVx?]*)(?P<name>[cmXW]|-check-hash-based-pycs)?=?(?P<value>.*)", re.DOTALL
)
"""Options of the interpreter: flags, then perhaps one that takes a value, which may be the next argument."""


@dataclass(frozen=True)
class AppCommand:
    """The command that started an app: what Python runs, with options of the interpreter, and the app's arguments."""

    program: tuple[str, ...]
    arguments: tuple[str, ...]

    def to_list(self) -> list[str]:
        """Return the command that starts the app again, with the same interpreter."""
        return [sys.executable, *self.program, *self.arguments]

    @property
    def typed_program(self) -> list[str]:
        """The words that a user types before the arguments: `python app.py`, `python -m pkg.app` or a command."""
        *options, name = self.program
        if options[-1:] == ["-m"]:
            return ["python", *self.program]
        if not options and shutil.which(Path(name).name) == name:
            return [Path(name).name]
        relative = os.path.relpath(name)
        return ["python", *options, min(name, relative, key=len)]


def find_app_command(config: DictConfig) -> AppCommand | None:
    """Return the command that started this process, if it runs the app with the overrides of `config`; else None.

    It is None where a sweep runs inside another program, such as a notebook, a test runner, a debugger, or a script
    that calls the app with arguments of its own.
    """
    found = _find_command(config)
    return found if isinstance(found, AppCommand) else None


def explain_missing_command(config: DictConfig) -> str:
    """Return why `find_app_command` returns None, or an empty string if it does not."""
    found = _find_command(config)
    return found if isinstance(found, str) else ""


def list_typed_overrides(config: DictConfig) -> list[str]:
    """Return the overrides that `config` was composed with as they were written: interpolations are not resolved."""
    overrides: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    return [*overrides["hydra"], *overrides["task"]]


def _find_command(config: DictConfig) -> AppCommand | str:
    """Return the command that started this process, or why it does not run the app with the overrides of `config`."""
    split = _split_python_command(sys.orig_argv)
    if split is None:
        return "Python was started with no script or module"
    program, arguments = split
    main_file = getattr(sys.modules["__main__"], "__file__", None)
    if main_file is None or sys.argv[0] != (program[-1] if program[-2:-1] != ["-m"] else main_file):
        return f"{sys.argv[0] or 'the app'} was started by another program"
    # An app may add arguments of its own to sys.argv or take some away, and will do so again.
    given = sys.argv[1:]
    if bool(given) != bool(arguments) or not (_is_subsequence(given, arguments) or _is_subsequence(arguments, given)):
        return "the arguments were replaced after the start"
    try:
        overrides = parse_hydra_arguments(given).overrides
    except ConfigError as error:
        return str(error)
    composed = set(list_typed_overrides(config)) - {MULTIRUN_OVERRIDE}
    if others := sorted(composed.symmetric_difference({*overrides} - {MULTIRUN_OVERRIDE})):
        return f"{', '.join(map(hide_credentials, others))}: not in both the command line and the configuration"
    if program[-2:-1] != ["-m"]:  # relative to a folder that the app may have left
        name = program[-1]
        program[-1] = main_file if Path(main_file).name == Path(name).name else os.path.abspath(name)
    return AppCommand(tuple(program), tuple(arguments))


def _split_python_command(command: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """Split a command of Python into what starts the program, without the interpreter, and its arguments.

    Return None if the program is not a script or a module.
    """
    index = 1
    while index < len(command) and command[index].startswith("-"):
        option = _PYTHON_OPTION.fullmatch(command[index])
        if option is None or option["name"] == "c":
            return None
        flags, name, value = option["flags"], option["name"], option["value"]
        if name == "m" and (value or index + 1 < len(command)):
            end = index + 1 if value else index + 2
            before = [*command[1:index], *([f"-{flags}"] if flags else [])]
            return [*before, "-m", value or command[index + 1]], list(command[end:])
        index += 2 if name and not value else 1
    if index >= len(command):
        return None
    return list(command[1 : index + 1]), list(command[index + 1 :])


def _is_subsequence(part: Sequence[str], whole: Sequence[str]) -> bool:
    remaining = iter(whole)
    return all(one in remaining for one in part)
