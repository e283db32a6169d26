"""Commands of a swept program and of its sweep, as a user types them."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from harness.sweep.programs.command.template import CommandTemplate

OPTION = re.compile(r"(?<![\w./])sweep\.([a-z_]+)(?:=(\S+))?")
COMPONENT = re.compile(r"(?<![\w./])(?:hydra\.sweeper\.)?(sampler|pruner)(?:=(\w+))?(?=[:; ])")


class ProgramCommandLine:
    """The command line of `plateau sweep -- COMMAND`."""

    confirm_advice = ""  # nobody knows how the program takes a seed

    def __init__(self, template: CommandTemplate) -> None:
        self._template = template

    def format_command(self, values: Mapping[str, Any]) -> str:
        """Return the command of a trial, quoted for a shell, with `out` for the trial's folder."""
        return self._template.format_command(values)

    def format_range(self, key: str, text: str) -> str:
        return self._template.format_range(key, text)

    def rename_options(self, message: str) -> str:
        """Return a message with the options of `plateau sweep` for those of our configuration."""
        return rename_command_options(message)


def rename_command_options(message: str) -> str:
    """Replace names of options such as sweep.study=NAME by those of the command line, such as --study NAME."""

    def rename(found: re.Match[str]) -> str:
        name = f"--{found[1].replace('_', '-')}"
        return name if found[2] is None else f"{name} {found[2]}"

    return COMPONENT.sub(rename, OPTION.sub(rename, message))


def format_sweep_command(arguments: list[str], template: CommandTemplate) -> str:
    """Return the command that starts the sweep, with the variables that it takes from its environment."""
    given = [word.partition("=")[0] for word in arguments]
    variables = {name: text for name, text in template.variables.items() if name not in given}
    return " ".join([
        *(f"{name}={shlex.quote(text)}" for name, text in variables.items()),
        shlex.join(["plateau", "sweep", *arguments]),
    ])  # fmt: skip
