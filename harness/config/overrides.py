"""Write values as overrides, and read the keys of overrides."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError

REMOVED_CREDENTIALS = ("sweep", "tracking", "observers", "hydra")
SWEEP_ONLY_KEYS = ("sweep", "pruner", "preflight")
"""Keys that only a sweep reads."""
UNQUOTED_PATTERN, RESERVED_WORDS = r"(?a:[A-Za-z_/][\w./-]*)", ("null", "true", "false", "nan", "inf")


def read_override_key(override: str) -> str:
    """Return the dotted key or the group that an override sets, adds or removes."""
    return override.lstrip("+~").partition("=")[0]


def check_no_credentials(override: str, place: str) -> None:
    """Check that an override that `place` stores holds no password; those of MLflow and of the storage are removed.

    Raises:
        ConfigError: If it does.
    """
    key = read_override_key(override)
    if hide_credentials(override) != override and key.partition(".")[0] not in REMOVED_CREDENTIALS:
        raise ConfigError(
            f"{key}: the address has a password, which {place} would store; put the password into an environment "
            "variable and write ${oc.env:NAME} in its place"
        )


def check_no_sweep_settings(overrides: Iterable[str]) -> None:
    """Check that the overrides of a single run set nothing that only a sweep reads.

    The file that `sweeps` chooses may also hold values of the run, and commands of trials name it.

    Raises:
        ConfigError: If one does.
    """
    for override in overrides:
        root, name = [*re.split("[/.]", read_override_key(override)), ""][:2]
        if root in SWEEP_ONLY_KEYS or (root == "hydra" and name in ("sweep", "sweeper", "launcher")):
            raise ConfigError(f"{override}: only a sweep reads it; add -m to start one, or leave it out")


def list_swept_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys to which overrides give several values."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [override.key_or_group for override in parsed if override.is_sweep_override()]


def format_value(value: Any) -> str:
    """Return `value` in Hydra's override grammar."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ",".join(f"{name}:{format_value(inner)}" for name, inner in value.items()) + "}"
        case list():
            return f"[{','.join(map(format_value, value))}]"
        case str() if re.fullmatch(UNQUOTED_PATTERN, value) and value.lower() not in RESERVED_WORDS:
            return value
        case str():
            # backslashes are literal except before a quote and at the end
            escaped = re.sub(r"\\+(?='|\Z)", lambda match: 2 * match[0], value).replace("'", "\\'")
            return f"'{escaped}'"
    return str(value)
