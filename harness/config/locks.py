"""Keys that an experiment locks: overriding or sweeping them is an error unless they are unlocked."""

import re
from collections.abc import Sequence
from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.alternatives import find_replaced_keys, read_given_settings
from harness.config.compose import compose_config, contains_key, flatten_config
from harness.core.errors import ConfigError, did_you_mean


def check_locked(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Check that no override, swept or not, changes a key that `cfg` locks and does not unlock.

    Raises:
        ConfigError: If one does; the message has the `unlock=[...]` that allows the overrides.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    changes = [
        (line, key)
        for line, override in zip(overrides, parsed, strict=True)
        for key in (_get_override_key(override), *_find_replaced_locks(line, overrides, cfg))
    ]
    # Not resolved: a missing value is for the validation to report. Deleted keys count as known.
    known = [*map(str, cfg), *flatten_config(OmegaConf.to_container(cfg)), *(key for _, key in changes)]
    locked, unlocked = _read_key_list(cfg, "locked", known), _read_key_list(cfg, "unlock", known)
    for line, key in changes:
        if _keys_overlap(key, "locked"):
            raise ConfigError(f"{line}: only an experiment can lock keys; to override a locked key: 'unlock=[KEY]'")
    violations = [
        (line, key, lock)
        for line, key in changes
        for lock in locked
        if _keys_overlap(key, lock)
        and not any(contains_key(free, key) or contains_key(free, lock) for free in unlocked)
    ]
    if violations:
        line, _, lock = violations[0]
        needed = dict.fromkeys([*unlocked, *(max(key, lock, key=len) for _, key, lock in violations)])
        names = [f"experiment {override.value()}" for override in parsed if override.key_or_group == "experiment"]
        raise ConfigError(
            f"{line}: {names[0] if names else 'the experiment'} locks {lock} (locked: {', '.join(locked)}); "
            f"to override it: 'unlock=[{','.join(needed)}]'"
        )


def _find_replaced_locks(line: str, overrides: Sequence[str], cfg: DictConfig) -> list[str]:
    """Return the locked alternatives that an override replaces."""
    replaced = find_replaced_keys(read_given_settings([line])) & {*map(str, cfg.get("locked") or ())}
    if not replaced:
        return []
    with suppress(HydraException):  # the override may be needed to compose
        before = compose_config([other for other in overrides if other != line])
        return [key for key in replaced if OmegaConf.select(before, key) is not None]
    return list(replaced)


def _read_key_list(cfg: DictConfig, name: str, known: list[str]) -> list[str]:
    try:
        keys = cfg.get(name)
    except OmegaConfBaseException as error:  # an interpolation
        raise ConfigError(f"{name}: {str(error).partition(chr(10))[0]}; write {name}=[]") from error
    if keys is None:
        raise ConfigError(f"{name}: has no value; leave out '~{name}', or write {name}=[]")
    if not isinstance(keys, ListConfig):
        raise ConfigError(f"{name}: {keys!r} is not a list of keys; write '{name}=[{keys}]'")
    for key in map(str, keys):
        if not any(contains_key(key, other) for other in known):
            raise ConfigError(f"{name}: there is no key {key!r}{did_you_mean(key, known)}")
    return list(keys)


def _get_override_key(override: Override) -> str:
    """Return the dotted key that an override sets: its key, its group, or the package that it puts a group into."""
    if override.package is not None and override.package != "_global_":
        return override.package
    return re.sub(r"[/\[]", ".", override.key_or_group).replace("]", "")


def _keys_overlap(one: str, other: str) -> bool:
    return contains_key(one, other) or contains_key(other, one)
