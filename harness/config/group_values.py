"""Check the overrides of config groups before Hydra composes: it does not name the group, and fails on some lists."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from harness.config.group_options import list_options
from harness.config.option_hints import suggest_for_number
from harness.core.errors import ConfigError
from harness.core.paths import config_dir, run_command


def check_group_values(overrides: Sequence[str]) -> None:
    """Check that config groups are given names of options, and are neither added nor deleted.

    Raises:
        ConfigError: If one is given another type, is added although it is there, or is deleted although it has `none`.
    """
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if key == "sweep" and value and not value.startswith("{"):
            raise ConfigError(f"{text}: sweep is a section; a search space is chosen with sweeps={value}")
        if not (key == "hydra" or key.startswith("hydra/") or (config_dir() / key).is_dir()):
            continue
        if text.startswith("+") and not key.startswith("hydra"):
            raise ConfigError(f"{text}: {key} is there already, so drop the +: {key}={value}")
        if text.startswith("~"):
            if "none" in list_options(key, overrides):
                raise ConfigError(f"{text}: a group cannot be deleted; use {key}=none")
            continue
        with suppress(HydraException):  # Hydra explains what it cannot parse
            override = OverridesParser.create().parse_override(text)
            parsed: Any = override.value()
            options = parsed if isinstance(parsed, list) else [parsed]
            if not override.is_sweep_override() and not all(isinstance(one, str | QuotedString) for one in options):
                known = list_options(key, overrides)
                listed = ", ".join(known) or f"`{' '.join(run_command())} --help` lists them"
                hint = suggest_for_number(key, parsed, known)
                raise ConfigError(f"{text}: a group needs an option: {listed}{hint}")
