"""Explain errors of Hydra and OmegaConf: name the key, the value and the remedy in one line."""

import re
from collections.abc import Sequence
from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverrideParseException, OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from harness.config.compose import compose_config, flatten_values, format_search_path
from harness.config.group_options import find_config_folders, find_options_with_key
from harness.config.key_hints import find_section, list_section_keys, suggest_overrides
from harness.config.option_hints import suggest_for_path, suggest_option
from harness.core.errors import ConfigError
from harness.core.paths import run_command

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
"""Raised for invalid input when a configuration is composed."""

RANGE_FORMS = "ranges are log(low,high), interval(low,high), int(log(low,high)), range(low,high,step) and choice(a,b)"

HYDRA_PREFIXES = ("hydra.", "+hydra.", "++hydra.", "~hydra.")
"""Beginnings of overrides whose errors Hydra reports without naming the key."""

LAUNCHER_EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
"""Extras of this package that install a launcher."""


def explain_error(error: Exception, arguments: list[str]) -> str:
    """Return a message for the user; unknown errors keep their first line."""
    cause = error.__cause__
    if isinstance(error, YAMLError):
        return _explain_yaml_error(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_missing_option(error, arguments)
    if isinstance(error, OverrideParseException):
        if wrong := re.search(r"while evaluating '.*?': (.*)", str(error)):
            return f"{error.override}: {wrong[1]}; {RANGE_FORMS}; quote other parentheses"
        if odd := re.search(r"[\u2010-\u2015\u2018-\u201f\u2212\u00a0]", error.override):
            return f"{error.override!r}: has the character {odd[0]!r} of a word processor; type it instead"
        return f"{error.override!r} is not an override; write key=value, and quote what the shell or Hydra would split"
    if wrong := re.match(r"Error resolving interpolation '(.*?)', possible", str(error)):
        override = next((argument for argument in arguments if argument.endswith(f"={wrong[1]}")), wrong[1])
        return f"{override}: a group needs an option, or an interpolation of another group"
    key = re.match(r"Could not override '([^']+)'", str(error))
    if key:
        return _explain_unknown_key(key[1], arguments)
    if existing := re.search(r"An item is already at '(.*?)'", str(error)):
        given = next((one for one in arguments if one.lstrip("+").partition("=")[0] == existing[1]), f"+{existing[1]}")
        return f"{given}: the key is there already, so drop the +: {given.lstrip('+')}"
    if "Ambiguous value" in str(error) or "requires --multirun" in str(error):
        override = re.search(r"'(.+)'", _first_line(error))
        return f"{override[1] if override else error}: several values are a sweep; add -m, or quote the value"
    if wrong := re.match(r"In '(.*?)': Invalid Defaults List override '(.*?)'", _first_line(error)):
        remedy = "begin the file with the line '# @package _global_', and name a group that exists"
        return f"{wrong[1]}.yaml: override {wrong[2]}: there is no such group in the defaults list; {remedy}"
    if wrong := re.match(r"Additional config directory '(.*?)' not found", str(error)):
        return f"--config-dir: {wrong[1]}: there is no such folder; name the one that holds your YAML files"
    message = " ".join(part for part in (_first_line(error), _first_line(cause)) if part)
    place = getattr(error, "full_key", None) or ", ".join(a for a in arguments if a.startswith(HYDRA_PREFIXES))
    return message if not place or place.partition("=")[0] in message else f"{place}: {message}"


def _explain_yaml_error(error: YAMLError) -> str:
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f"a configuration is not valid YAML: {' '.join(str(error).split())}; fix the file"
    mark = error.problem_mark
    return f"{mark.name}, line {mark.line + 1}: {error.problem}; fix the YAML there, or in the line before"


def _explain_missing_option(error: MissingConfigException, arguments: Sequence[str]) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = sorted(error.options or [])
    hint = suggest_option(group, option, options)
    if path := next((one for one in arguments if one.partition("=")[2].endswith(option)), ""):
        key, _, name = path.partition("=")
        if remedy := suggest_for_path(key, name):
            return f"{path}: an option has a name, not a path; {remedy}"
        hint = suggest_option(group, name, options) if key == group else hint
    if group == "hydra/launcher" and option in LAUNCHER_EXTRAS:
        extra = LAUNCHER_EXTRAS[option]
        return f"{group}={option}: this launcher is not installed; pip install 'plateau-harness[{extra}]'"
    if not options and group.startswith("experiment/"):
        named = group.rpartition("/")[2]
        return f"{group}={option}: there is no such group; write 'override /{named}: {option}' in the defaults list"
    if not group:
        return f"there is no configuration {option!r}{hint}"
    return f"{group}={option}: {group} has no option {option!r}{hint} (it has {', '.join(options)})"


def describe_unknown_key(key: str, arguments: Sequence[str], value: str = "") -> str:
    """Return what to write instead of a key that does not exist, with what precedes it: "; did you mean ...?"."""
    group, _, name = key.partition(".")
    if name and (options := find_options_with_key(group, key, arguments)):
        return f"; the chosen {group} has no such key, it needs {group}={'|'.join(options)}"
    others = [one for one in arguments if "=" in one and not one.startswith("-") and key not in one.partition("=")[0]]
    folders = find_config_folders(arguments)
    search_path = [format_search_path(folders)] if folders else []
    others = [*search_path, *(one for one in others if not one.startswith("hydra.searchpath="))]
    known = flatten_values(_compose_plain(others) or _compose_plain(search_path))
    if overrides := suggest_overrides(key, value, known, arguments):
        return f"; did you mean {' or '.join(overrides)}?"
    if (section := find_section(key, known)) and (keys := list_section_keys(section, known)):
        return f"; {section} has {', '.join(keys)}"
    return f"; `{' '.join(run_command())} --cfg job` shows every key"


def _compose_plain(overrides: Sequence[str]) -> dict[str, object]:
    """Return the composed configuration without the ranges among the overrides; nothing where one of them is wrong."""
    with suppress(*HYDRA_ERRORS, ConfigError, ValueError):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        fixed = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
        return OmegaConf.to_container(compose_config(fixed))  # type: ignore[return-value]  # its keys are texts
    return {}


def _explain_unknown_key(key: str, arguments: list[str]) -> str:
    given = next((argument for argument in arguments if argument.split("=")[0] == key), key)
    return f"{given}: there is no key {key!r}{describe_unknown_key(key, arguments, given.partition('=')[2])}"


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0] if error else ""
