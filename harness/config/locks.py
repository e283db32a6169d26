"""What an experiment fixes: an override, typed or swept, that touches it is refused."""

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf

from harness.config.compose import contains_key, flatten_config
from harness.core.errors import ConfigError, did_you_mean


def check_locked(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """ConfigError where one of `overrides`, typed or swept, touches a key that `cfg` locks and does not unlock."""
    typed = OverridesParser.create().parse_overrides(list(overrides))
    touched = [(override.input_line, _get_override_key(override)) for override in typed]
    known = [
        *cfg,
        *flatten_config(OmegaConf.to_container(cfg)),
        *(key for _, key in touched),
    ]  # a deleted key is one, too
    locked, unlock = _read_key_list(cfg, "locked", known), _read_key_list(cfg, "unlock", known)
    for line, key in touched:
        if _keys_overlap(key, "locked"):
            raise ConfigError(
                f"{line}: only an experiment says what is locked; to change a key of them: 'unlock=[KEY]'"
            )
    broken = [
        (line, key, lock)
        for line, key in touched
        for lock in locked
        if _keys_overlap(key, lock) and not any(contains_key(free, key) or contains_key(free, lock) for free in unlock)
    ]
    if broken:
        line, _, lock = broken[0]
        needed = dict.fromkeys([*unlock, *(max(key, lock, key=len) for _, key, lock in broken)])
        names = [f"experiment {override.value()}" for override in typed if override.key_or_group == "experiment"]
        raise ConfigError(
            f"{line}: {names[0] if names else 'the experiment'} fixes {lock} (locked: {', '.join(locked)}); "
            f"to change it on purpose: 'unlock=[{','.join(needed)}]'"
        )


def _read_key_list(cfg: DictConfig, name: str, known: list[str]) -> list[str]:
    listed = cfg[name]
    if not isinstance(listed, ListConfig):
        raise ConfigError(f"{name}: {listed!r} is no list of keys; write '{name}=[{listed}]'")
    for key in map(str, listed):
        if not any(contains_key(key, other) for other in known):
            raise ConfigError(f"{name}: there is no key {key!r}{did_you_mean(key, known)}")
    return list(listed)


def _get_override_key(override: Override) -> str:
    """The dotted key that an override sets: its own, its group's, or the package that it puts a group into."""
    is_elsewhere = override.package not in (None, "_global_")
    return override.package if is_elsewhere else re.sub(r"[/\[]", ".", override.key_or_group).replace("]", "")


def _keys_overlap(one: str, other: str) -> bool:
    return contains_key(one, other) or contains_key(other, one)
