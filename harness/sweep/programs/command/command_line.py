"""Commands of a swept program and of its sweep, as a user types them."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.credentials import hide_secret_words
from harness.sweep.options import rename_sweep_options
from harness.sweep.programs.command.seed_option import find_seed_slot
from harness.sweep.programs.command.template import CommandTemplate, format_assignments

LOG_RANGE = re.compile(r"tag\(log,interval\(([^()]*)\)\)")


class ProgramCommandLine:
    """The command line of `plateau sweep -- COMMAND`."""

    def __init__(self, template: CommandTemplate, baseline: Mapping[str, Any]) -> None:
        self._template = template
        self.confirm_options = "" if find_seed_slot(template) else "--seed-flag --seed"
        self.baseline_name = "the values of --baseline" if baseline else "the command as it stands"

    def format_command(self, values: Mapping[str, Any]) -> str:
        """Return the command of a trial, quoted for a shell, with `out`, which it creates, for the trial's folder."""
        command = self._template.format_command(values)
        has_folder = command != self._template.format_command(values, Path("other") / "out")  # {trial} is the same
        return f"mkdir -p out && {command}" if has_folder else command

    def format_wider_search(self, key: str, text: str) -> str:
        """Return the words that search `key` over a range in another study, quoted for a shell."""
        return f"--study NAME ... -- ... {self._template.format_range(key, shorten_log_ranges(text))}"

    def rename_options(self, message: str) -> str:
        """Return a message with the options of `plateau sweep` for those of our configuration."""
        return rename_command_options(message)


def shorten_log_ranges(text: str) -> str:
    """Return a text with `log(1,2)` in place of `tag(log,interval(1,2))`."""
    return LOG_RANGE.sub(r"log(\1)", text)


def rename_command_options(message: str) -> str:
    """Replace options such as sweep.study=NAME by those of the command line, such as --study NAME; shorten ranges."""
    return rename_sweep_options(shorten_log_ranges(message), lambda name: f"--{name.replace('_', '-')}", " ")


def format_sweep_command(arguments: list[str], template: CommandTemplate) -> str:
    """Return the command that starts the sweep, with the variables of its environment that it uses.

    Credentials are left out.
    """
    given = [word.partition("=")[0] for word in arguments]
    variables = {name: text for name, text in template.variables.items() if name not in given}
    return " ".join([*format_assignments(variables), shlex.join(["plateau", "sweep", *hide_secret_words(arguments)])])
