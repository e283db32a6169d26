"""The options of config groups and what they hold, in conf/ and in the user's own folders; broken files are skipped."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness.config.hydra_internals import ConfigFiles
from harness.config.trust import check_components, check_search_path
from harness.core.errors import ConfigError
from harness.core.paths import config_dir

UNREADABLE_ERRORS = (ConfigError, HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError,
                     AssertionError, RecursionError)  # fmt: skip
"""Raised for a file that is not an option; choosing it is an error."""

ABSENT = object()


def list_groups(arguments: Sequence[str] = ()) -> list[str]:
    """Return the groups of the configuration; `arguments` may name more folders."""
    return [group for group in _open_files(arguments).list_groups() if group != "hydra"]


def list_options(group: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the options of a group."""
    return _open_files(arguments).list_options(group)


def read_options(group: str, arguments: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Return what each option of a group holds, with what it is built on. Options that cannot be read are left out."""
    files = _open_files(arguments)
    found = {}
    for option in files.list_options(group):
        with suppress(*UNREADABLE_ERRORS):
            found[option] = files.read_option(group, f"{group}/{option}")
    return found


def list_trusted_options(group: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the options of a group that can be read and whose component, if there is one, is trusted."""
    trusted = []
    for option, content in read_options(group, arguments).items():
        with suppress(ConfigError):
            check_components(content, tuple(group.split("/")))
            trusted.append(option)
    return trusted


def find_options_with_key(group: str, key: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the options of a group that have the dotted key `key`, which begins with the group."""
    names = key.split(".")
    options = read_options(group, arguments).items()
    return [option for option, content in options if _read_path({group: content}, names) is not ABSENT]


def drop_needless_deletions(overrides: Sequence[str], defaults: Sequence[str]) -> list[str]:
    """Return `overrides` without deletions of keys that the options in `defaults`, as observers=trial, do not have.

    They were written for the option that it replaces. Hydra refuses to delete a key that is not there.
    """
    options = dict(default.split("=", 1) for default in defaults)
    kept = []
    for override in overrides:
        key = override.removeprefix("~").partition("=")[0]
        group = key.partition(".")[0]
        is_chosen = any(other.startswith(f"{group}=") for other in overrides)
        if override.startswith("~") and group in options and not is_chosen:
            with_key = find_options_with_key(group, key, overrides)
            if with_key and options[group] not in with_key:
                continue
        kept.append(override)
    return kept


def is_left_open(key: str) -> bool:
    """Return whether an option of the dotted key's group has no value for it: `???`."""
    names = key.split(".")
    return any(_read_path({names[0]: content}, names) == "???" for content in read_options(names[0]).values())


def find_config_folders(arguments: Sequence[str]) -> list[str]:
    """Return the folders that overrides (`hydra.searchpath`) or a command line (`--config-dir`) add to conf/."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd")
    folders = []
    with suppress(argparse.ArgumentError):  # the command itself reports it
        if folder := parser.parse_known_args(list(arguments))[0].config_dir:
            folders.append(f"file://{Path(folder).absolute()}")
    return [*folders, *_read_search_path(arguments)]


def _read_search_path(arguments: Sequence[str]) -> Iterator[str]:
    for argument in arguments:
        if argument.lstrip("+").startswith("hydra.searchpath="):
            with suppress(*UNREADABLE_ERRORS):
                for folder in OverridesParser.create().parse_override(argument).value():  # type: ignore[union-attr]
                    check_search_path(str(folder))
                    yield str(folder)


def _open_files(arguments: Sequence[str]) -> ConfigFiles:
    return ConfigFiles(str(config_dir()), find_config_folders(arguments))


def _read_path(node: Any, names: Sequence[str]) -> Any:
    """Return what nested mappings have at a key below a key, or ABSENT."""
    for name in names:
        if not isinstance(node, dict) or name not in node:
            return ABSENT
        node = node[name]
    return node
