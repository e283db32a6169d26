"""Explain errors of Hydra and OmegaConf: name the key, the value and the remedy in one line."""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.overrides_parser import OverrideParseException, OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from harness.core.errors import ConfigError, did_you_mean
from harness.core.paths import config_dir, run_command

HYDRA_ERRORS = (HydraException, OmegaConfBaseException)
"""Raised for invalid input when a configuration is composed."""

HYDRA_PREFIXES = ("hydra.", "+hydra.", "++hydra.", "~hydra.")
"""Beginnings of overrides whose errors Hydra reports without naming the key."""

LAUNCHER_EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
"""Extras of this package that install a launcher."""


def explain_error(error: Exception, arguments: list[str]) -> str:
    """Return a message for the user; unknown errors keep their first line."""
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_missing_option(error)
    if isinstance(error, OverrideParseException):
        if wrong := re.search(r"while evaluating .*", str(error)):
            return f"{error.override}: {wrong[0]}"
        return f"{error.override!r} is not an override; write key=value, and quote what the shell or Hydra would split"
    if wrong := re.match(r"Error resolving interpolation '(.*?)', possible", str(error)):
        override = next((argument for argument in arguments if argument.endswith(f"={wrong[1]}")), wrong[1])
        return f"{override}: a group needs an option, or an interpolation of another group"
    key = re.match(r"Could not override '([^']+)'", str(error))
    if key:
        return _explain_unknown_key(key[1], str(cause), arguments)
    if "Ambiguous value" in str(error) or "requires --multirun" in str(error):
        override = re.search(r"'(.+)'", _first_line(error))
        return f"{override[1] if override else error}: several values are a sweep; add -m, or quote the value"
    message = " ".join(part for part in (_first_line(error), _first_line(cause)) if part)
    place = getattr(error, "full_key", None) or ", ".join(a for a in arguments if a.startswith(HYDRA_PREFIXES))
    return message if not place or place.partition("=")[0] in message else f"{place}: {message}"


def check_group_values(overrides: Sequence[str]) -> None:
    """Check that config groups are given names of options; Hydra does not name the group, and fails on some lists.

    Raises:
        ConfigError: If one is given another type.
    """
    for text in overrides:
        key = text.lstrip("+").partition("=")[0]
        if not (key == "hydra" or key.startswith("hydra/") or (config_dir() / key).is_dir()):
            continue
        with suppress(HydraException):  # Hydra explains what it cannot parse
            override = OverridesParser.create().parse_override(text)
            value: Any = override.value()
            options = value if isinstance(value, list) else [value]
            if not override.is_sweep_override() and not all(isinstance(one, str | QuotedString) for one in options):
                raise ConfigError(f"{text}: a group needs an option; `{' '.join(run_command())} --help` lists them")


def _explain_missing_option(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = sorted(error.options or [])
    hint = did_you_mean(option, options)
    if group == "hydra/launcher" and option in LAUNCHER_EXTRAS:
        extra = LAUNCHER_EXTRAS[option]
        return f"{group}={option}: this launcher is not installed; pip install 'plateau-harness[{extra}]'"
    if not group:
        return f"there is no configuration {option!r}{hint}"
    return f"{group}={option}: {group} has no option {option!r}{hint} (it has {', '.join(options)})"


def _explain_unknown_key(key: str, cause: str, arguments: list[str]) -> str:
    """Return a message with the similar keys that OmegaConf lists, which are relative to the parent of `key`."""
    parent = key.rpartition(".")[0]
    level = f"{parent}." if parent else ""
    near = re.search(r"Did you mean(?: one of)?: ([^?]+)\?", cause)
    names = [f"{level}{name}" for name in re.findall(r"'([^']+)'", near[1])] if near else []
    given = next((argument for argument in arguments if argument.split("=")[0] == key), key)
    command = " ".join(run_command())
    hint = f"; did you mean {' or '.join(names)}?" if names else f"; `{command} --cfg job` shows every key"
    return f"{given}: there is no key {key!r}{hint}"


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0] if error else ""
