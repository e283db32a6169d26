"""Names of values as programs write them, and the values that a name given by a user may mean."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from harness.importers.foreign_words import translate_words
from harness.importers.metric_aliases import (
    POSITIONS,
    TRAIN_WORDS,
    UNKNOWN,
    Meaning,
    name_meaning,
    normalize_name,
    split_words,
)
from harness.importers.text.labels import NEUTRAL_WORDS

CARET_K = re.compile(r"(?<=\w)[@^](?=\.?\d)")
"""`Acc@5`, `mAP@0.5`, `R^2`: the number belongs to the name."""
RANGE_IN_NAME = re.compile(r"(?<=[A-Za-z])(\d\d?)-(?=\d)")
"""`mAP50-95`."""
K_MARK = "@k"
SYNONYMS = {
    **dict.fromkeys(("val", "valid", "validation", "vali", "eval", "evaluation", "dev", "va", "vl"), "val"),
    **dict.fromkeys(TRAIN_WORDS, "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("acc", "accuracy"), "acc"),
    **dict.fromkeys(("ppl", "perplexity"), "ppl"),
    "losses": "loss",
    "lr": "learning_rate",
}
HELD_OUT = ("val", "test")
NEUTRAL = NEUTRAL_WORDS - set(SYNONYMS) - split_words("step iter iteration epoch batch") | {"value"}


@dataclass(frozen=True)
class ValueName:
    """Name of a value: the words before it, and `context`, the split that its line was measured on, if it says so.

    `parts` are shorter names for it, such as the last key of a path or the words without those in brackets.
    """

    label: str
    context: str | None = None
    parts: tuple[str, ...] = ()
    qualifier: str = ""  # of the model that was measured, as in `EMA valid: loss`

    @property
    def full(self) -> str:
        return " ".join(filter(None, (self.qualifier, self.context, self.label)))

    @property
    def unqualified(self) -> str:
        return f"{self.context} {self.label}" if self.context else self.label

    @property
    def key(self) -> str:
        """Return what is the same in all spellings of the full name."""
        return squash_name(self.full)

    @property
    def metric(self) -> str | None:
        """Return the metric of ours that it stands for, None if it is unknown."""
        return self.meaning.metric

    @property
    def meaning(self) -> Meaning:
        """Return what it stands for, and how directly it says so."""
        for name in (self.unqualified, *self.parts):
            meaning = name_meaning(name)
            if meaning.metric is not None and meaning.metric not in POSITIONS:
                return Meaning(meaning.metric, meaning.tier + 1) if self.qualifier else meaning
        return UNKNOWN


@lru_cache(8192)
def squash_name(name: str) -> str:
    """Return a name without case and separators, so that `Val Acc`, `val_acc` and `val/acc` are the same."""
    name = translate_words(name.replace(K_MARK, "")).casefold()
    return "".join(character for character in name if character.isalnum())


@lru_cache(8192)
def plain_words(name: str) -> frozenset[str]:
    """Return the words of a name without neutral ones, each in one form: `validation accuracy` is `acc/val`."""
    words = normalize_name(name.replace(K_MARK, "")).split("_")
    kept = [SYNONYMS.get(word, word) for word in words if word not in NEUTRAL]
    return frozenset(kept or words)


def protect_digits(line: str) -> str:
    """Return a line where digits that belong to names, as in `Acc@5` and `mAP50-95`, cannot be taken for values."""
    if "@" in line or "^" in line:
        line = CARET_K.sub(K_MARK, line)
    return RANGE_IN_NAME.sub(r"\1_", line) if "-" in line else line


def show_name(name: str) -> str:
    """Return a name as the program wrote it."""
    return name.replace(K_MARK, "@")


def match_names(query: str, names: Iterable[ValueName]) -> list[ValueName]:
    """Return the names that `query` may mean, of those that say it most exactly.

    First those that are spelled so, and beside one that says no split those of the validation; then those of which it
    is a part, then those with the same words in any order. Names with a qualifier, such as `EMA`, are meant where it
    is given, or where no other name is meant.
    """
    names = list(names)
    plain = [name for name in names if not name.qualifier]
    found = _match_plain(query, plain) or _match_plain(query, names)
    if found or len(plain) == len(names):
        return found
    by_unqualified = {squash_name(name.full): name for name in names if name.qualifier}
    others = {squash_name(name.unqualified): squash_name(name.full) for name in names if name.qualifier}
    stripped = [replace(name, qualifier="") for name in by_unqualified.values()]
    return [by_unqualified[others[name.key]] for name in _match_plain(query, stripped)]


def _match_plain(query: str, names: list[ValueName]) -> list[ValueName]:
    squashed = squash_name(query)
    exact = [name for name in names if name.key == squashed]
    if exact and exact[0].context is None:
        exact += [name for name in names if name.context in HELD_OUT and squash_name(name.label) == squashed]
    if exact:
        return exact
    by_part = [name for name in names if squashed in (squash_name(name.label), *map(squash_name, name.parts))]
    if by_part:
        return by_part
    without_split = re.sub(r"^train(?:ing)?\W+", "", query)
    unsaid = [name for name in names if name.context is None and name.key == squash_name(without_split)]
    if without_split != query and unsaid:
        return unsaid
    words = plain_words(query)
    by_words = [name for name in names if plain_words(name.full) == words]
    return by_words or [name for name in names if words in map(plain_words, (name.label, *name.parts))]
