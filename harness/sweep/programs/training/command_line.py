"""Commands of our own runs and sweeps, as a user types them."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.config.alternatives import find_replaced_keys
from harness.config.overrides import read_override_key
from harness.core.credentials import hide_credentials
from harness.core.paths import run_command
from harness.sweep.results.formatting import format_override


class TrainingCommandLine:
    """The command line of `python run.py`, with the overrides `current` of all trials."""

    baseline_name = "the current configuration"
    confirm_options = ""

    def __init__(self, current: Sequence[str]) -> None:
        self._current = current

    def format_command(self, values: Mapping[str, Any]) -> str:
        """Return the command of a run, quoted for Hydra and the shell."""
        return shlex.join([*run_command(), *list_trial_overrides(self._current, values)])

    def format_wider_search(self, key: str, text: str) -> str:
        return f"'{key}={text}' sweep.study=NAME"

    def rename_options(self, message: str) -> str:
        return message


def list_trial_overrides(fixed: Iterable[str], params: Mapping[str, Any]) -> list[str]:
    """Return the overrides of a trial, choices of groups first, quoted for Hydra; `params` replace those of `fixed`.

    Choices of groups come first, as in Hydra's own documentation.
    """
    replaced = {*params, *find_replaced_keys(params)}
    kept = [hide_credentials(override) for override in fixed if read_override_key(override) not in replaced]
    overrides = [*kept, *(format_override(key, value) for key, value in params.items())]
    return sorted(overrides, key=lambda override: "." in override.partition("=")[0])
