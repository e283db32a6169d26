"""Settings of which one is set at a time: setting another one replaces it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

ALTERNATIVES = {
    "loop": (("max_steps", "epochs", "max_tokens"), ("evals", "eval_every")),
    "schedule": (("warmup_ratio", "warmup_steps"),),
    "data": (("val_fraction", "validation"), ("test_share", "test")),
}
"""By section, the names of settings of which exactly one is not null, or at most one where none is needed."""


def find_replaced_keys(given: Mapping[str, Any]) -> set[str]:
    """Return the keys that the settings `given`, by dotted key, replace. Keys that are given themselves are not."""
    return {
        f"{section}.{name}"
        for section, groups in ALTERNATIVES.items()
        for names in groups
        if any(_is_given(f"{section}.{name}", given) for name in names)
        for name in names
        if f"{section}.{name}" not in given and not _is_given(f"{section}.{name}", given)
    }


def _is_given(key: str, given: Mapping[str, Any]) -> bool:
    """Return whether `given` sets a key to something, or a key below it."""
    return given.get(key) is not None or any(name.startswith(f"{key}.") for name in given)


def replace_alternatives(cfg: DictConfig, given: Mapping[str, Any]) -> None:
    """Set the keys of `cfg` to null that the settings `given`, by dotted key, replace."""
    for key in find_replaced_keys(given):
        section, _, name = key.partition(".")
        if isinstance(cfg.get(section), DictConfig) and name in cfg[section]:
            OmegaConf.update(cfg, key, None)


def read_given_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Return what overrides set, by dotted key. A key with several values has them as text; deletions are left out."""
    given: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group.replace("[", ".").replace("]", "")
        if not override.is_delete():
            value = override.get_value_string() if override.is_sweep_override() else override.value()
            given |= dict(_list_leaves(key, value))
    return given


def _list_leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, child in value.items():
        yield from _list_leaves(f"{key}.{name}", child)
