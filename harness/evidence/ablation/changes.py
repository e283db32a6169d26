"""The changes between two configurations: values that make sense only together are one change."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.config.alternatives import ALTERNATIVES
from harness.core.errors import ConfigError, did_you_mean
from harness.sweep.space.search_space import SearchSpace, parse_choice

OTHERS = "the other changes"
MAX_CHANGES = 8
"""Changes that are taken apart unless the user names them; each costs two configurations."""


@dataclass(frozen=True)
class Change:
    """Values that are changed together, by key. A key that one side does not set is missing there."""

    name: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple({**self.after, **self.before})

    def apply_to(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a configuration with this change made."""
        return {**{key: value for key, value in values.items() if key not in self.before}, **self.after}

    def revert_in(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a configuration with this change undone; what the baseline does not set is left out."""
        return {**{key: value for key, value in values.items() if key not in self.after}, **self.before}


@dataclass
class _KeySets:
    """Disjoint sets of keys."""

    sets: list[list[str]] = field(default_factory=list)

    def join(self, keys: Sequence[str]) -> None:
        met = [one for one in self.sets if set(one) & set(keys)]
        joined = [key for one in met for key in one]
        joined += [key for key in keys if key not in joined]
        self.sets = [joined if one is met[0] else one for one in self.sets if one not in met[1:]]


def find_changes(
    baseline: Mapping[str, Any], winner: Mapping[str, Any], space: SearchSpace, alternatives: Iterable[Sequence[str]]
) -> list[Change]:
    """Return the changes from the values of the baseline to those of the winner.

    Another option of a group is one change together with what is searched only under one of the options, and with keys
    of the group that are not searched under all of them. Of `alternatives`, one key is set at a time.
    """
    keys = [key for key in {**winner, **baseline} if not _is_unchanged(key, baseline, winner)]
    found = _KeySets([[key] for key in keys])
    for group in keys:
        if group in space.group_options:
            found.join([group, *(key for key in keys if _belongs_to(key, group, baseline, winner, space))])
    for names in alternatives:
        if own := [key for key in keys if key in names]:
            found.join(own)
    return [_make_change(own, baseline, winner) for own in found.sets]


def list_alternatives() -> list[tuple[str, ...]]:
    """Return the keys of our own configuration of which one is set at a time."""
    return [
        tuple(f"{section}.{name}" for name in names) for section, groups in ALTERNATIVES.items() for names in groups
    ]


def select_changes(changes: Sequence[Change], chosen: Sequence[str]) -> list[Change]:
    """Return the changes that are taken apart: all, or the chosen ones and all others as one.

    Each of `chosen` is a key, or several with commas between them, which are one change.

    Raises:
        ConfigError: If a key is not changed or is chosen twice, or there are too many changes or too few.
    """
    selected = list(changes)
    if chosen:
        selected = [_join_changes(_read_choice(changes, text)) for text in chosen]
        used = [key for change in selected for key in change.keys]
        if twice := next((key for key in used if used.count(key) > 1), None):
            raise ConfigError(f"--changes: {twice} is in two of them; name it once")
        if others := [change for change in changes if change.keys[0] not in used]:
            selected.append(_join_changes(others, OTHERS if len(others) > 1 else ""))
    if len(selected) < 2:
        names = "".join(f"one change, {change.name}" for change in selected)
        reason = f"it differs from the baseline in {names}" if names else "it has the values of the baseline"
        raise ConfigError(
            f"STUDY: nothing to take apart in the winner: {reason}; `plateau confirm` compares it with the baseline"
        )
    if len(selected) > MAX_CHANGES and not chosen:
        names = " ".join(change.name for change in selected)
        raise ConfigError(
            f"--changes: the winner differs from the baseline in {len(selected)} changes, which need "
            f"{2 * len(selected) + 2} configurations; name those to take apart, and all others count as one: {names}"
        )
    return selected


def _is_unchanged(key: str, baseline: Mapping[str, Any], winner: Mapping[str, Any]) -> bool:
    return key in baseline and key in winner and is_same_value(baseline[key], winner[key])


def is_same_value(one: Any, other: Any) -> bool:
    """Return whether two values are equal up to how they are written, such as 1e-3 and 0.001."""
    one, other = parse_choice(one), parse_choice(other)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)


def _belongs_to(
    key: str, group: str, baseline: Mapping[str, Any], winner: Mapping[str, Any], space: SearchSpace
) -> bool:
    """Return whether a key makes sense only together with the option of a group."""
    for option in (baseline.get(group), winner.get(group)):
        if key in space.conditional.get(f"{group}={option}", {}):
            return True
    section = group.replace("/", ".")
    return key not in space.ranges and key.lstrip("+").startswith(f"{section}.")


def _make_change(keys: Sequence[str], baseline: Mapping[str, Any], winner: Mapping[str, Any]) -> Change:
    return Change(
        name=keys[0],
        before={key: baseline[key] for key in keys if key in baseline},
        after={key: winner[key] for key in keys if key in winner},
    )


def _read_choice(changes: Sequence[Change], text: str) -> list[Change]:
    """Return the changes whose keys are named in `text`, with commas between them."""
    by_key = {key: change for change in changes for key in change.keys}
    found: list[Change] = []
    for key in filter(None, (part.strip() for part in text.split(","))):
        if key not in by_key:
            known = ", ".join(by_key) or "nothing"
            raise ConfigError(f"--changes {key}: does not change{did_you_mean(key, by_key)}; what changes: {known}")
        if by_key[key] not in found:
            found.append(by_key[key])
    if not found:
        raise ConfigError("--changes: is empty; name a key that changes")
    return found


def _join_changes(changes: Sequence[Change], name: str = "") -> Change:
    return Change(
        name=name or ", ".join(change.name for change in changes),
        before={key: value for change in changes for key, value in change.before.items()},
        after={key: value for change in changes for key, value in change.after.items()},
    )
