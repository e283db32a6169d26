"""Explain errors of Hydra and OmegaConf: name the key, the value and the remedy in one line."""

import re

from hydra.core.override_parser.overrides_parser import OverrideParseException
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from harness.core.errors import did_you_mean
from harness.core.paths import run_command

HYDRA_ERRORS = (HydraException, OmegaConfBaseException)
"""Raised for invalid input when a configuration is composed."""

LAUNCHER_EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
"""Extras of this package that install a launcher."""


def explain_error(error: Exception, arguments: list[str]) -> str:
    """Return a message for the user; unknown errors keep their first line."""
    cause = error.__cause__
    if "Config group override must be" in str(error):
        return f"{next((a for a in arguments if a.endswith('=null')), 'null')}: a group needs an option"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_missing_option(error)
    if isinstance(error, OverrideParseException):
        if wrong := re.search(r"while evaluating .*", str(error)):
            return f"{error.override}: {wrong[0]}"
        return f"{error.override!r} is not an override; write key=value, and quote what the shell or Hydra would split"
    key = re.match(r"Could not override '([^']+)'", str(error))
    if key:
        return _explain_unknown_key(key[1], str(cause), arguments)
    if "Ambiguous value" in str(error) or "requires --multirun" in str(error):
        override = re.search(r"'(.+)'", _first_line(error))
        return f"{override[1] if override else error}: several values are a sweep; add -m, or quote the value"
    return " ".join(part for part in (_first_line(error), _first_line(cause)) if part)


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
