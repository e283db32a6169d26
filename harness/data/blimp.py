"""BLiMP (Warstadt et al., TACL 2020): minimal pairs, an acceptable sentence and an unacceptable variant of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from harness.core.task import Mean
from harness.data.sources import HuggingFace
from harness.data.text_files import find_data_files, read_json_objects

HUB_DATASET = "nyu-mll/blimp"  # one configuration per paradigm
FILE_SUFFIXES = (".jsonl", ".ndjson")
SENTENCE_FIELDS = ("sentence_good", "sentence_bad")
GROUP_FIELDS = ("UID", "linguistics_term", "field")  # paradigm, phenomenon, field of linguistics
# The files spell these differently from the paper's tables.
PAPER_NAMES = {"s-selection": "argument_structure", "syntax/semantics": "syntax_semantics"}

GroupKind = Literal["all", "field", "phenomenon", "paradigm"]


@dataclass(frozen=True)
class MinimalPair:
    """An acceptable sentence, an unacceptable one, and the groups that the pair belongs to."""

    good: str
    bad: str
    paradigm: str
    phenomenon: str
    field: str


@dataclass(frozen=True)
class GroupAccuracy:
    """Fraction of the pairs of one group whose good sentence is the more likely one."""

    kind: GroupKind
    name: str
    accuracy: Mean


def read_minimal_pairs(path: str | None = None, per_paradigm: int | None = None) -> list[MinimalPair]:
    """Read minimal pairs, sorted by paradigm.

    `path` is a JSONL file (.gz too), a folder of them, the Hub's data set `nyu-mll/blimp`, or None for no pairs. Files
    of a folder without sentences in their first row are skipped. `per_paradigm` keeps the first pairs of each paradigm.

    Raises:
        FileNotFoundError: If no file matches `path`.
        ValueError: If a row is invalid; the message names file, line and field.
    """
    if per_paradigm is not None and per_paradigm < 1:
        raise ValueError(f"per_paradigm={per_paradigm} must be at least 1, or null for all")
    if path is None:
        return []
    rows = _read_hub_rows() if path == HUB_DATASET else _read_local_rows(path)
    by_paradigm: dict[str, list[MinimalPair]] = {}
    for pair in _parse_rows(rows):
        by_paradigm.setdefault(pair.paradigm, []).append(pair)
    return [pair for paradigm in sorted(by_paradigm) for pair in by_paradigm[paradigm][:per_paradigm]]


def compute_accuracies(pairs: Sequence[MinimalPair], is_correct: Iterable[bool]) -> list[GroupAccuracy]:
    """Return the accuracy over all pairs, then by field, phenomenon and paradigm, each sorted by name.

    The overall accuracy is the mean over pairs. It equals the mean over paradigms if these have equally many pairs.
    """
    means: dict[tuple[GroupKind, str], Mean] = {}
    for pair, correct in zip(pairs, is_correct, strict=True):
        hit = Mean(float(correct), 1, "fraction of pairs", float(correct))
        groups: tuple[tuple[GroupKind, str], ...] = (
            ("all", "accuracy"),
            ("field", pair.field),
            ("phenomenon", pair.phenomenon),
            ("paradigm", pair.paradigm),
        )
        for group in groups:
            means[group] = means[group] + hit if group in means else hit
    order = ("all", "field", "phenomenon", "paradigm")
    return [GroupAccuracy(*group, means[group]) for group in sorted(means, key=lambda g: (order.index(g[0]), g[1]))]


def _parse_rows(rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[MinimalPair]:
    """Yield the pairs; reject duplicates and paradigms that are filed under two phenomena or fields."""
    seen: dict[MinimalPair, str] = {}
    groups: dict[str, tuple[tuple[str, str], str]] = {}
    for where, row in rows:
        pair = _parse_row(row, where)
        if pair in seen:
            raise ValueError(f"path: {where} repeats the pair of {seen[pair]}; remove one")
        seen[pair] = where
        group, first = groups.setdefault(pair.paradigm, ((pair.phenomenon, pair.field), where))
        if group != (pair.phenomenon, pair.field):
            raise ValueError(
                f"path: {where} puts the UID {pair.paradigm!r} under {pair.phenomenon!r} of {pair.field!r}, "
                f"but {first} under {group[0]!r} of {group[1]!r}; make them agree"
            )
        yield pair
    if not seen:
        raise ValueError("path: contains no pairs")


def _parse_row(row: dict[str, Any], where: str) -> MinimalPair:
    for field in (*SENTENCE_FIELDS, *GROUP_FIELDS):
        if not isinstance(row.get(field), str) or not row[field].strip():
            found = f"{row[field]!r} in" if field in row else "no"
            raise ValueError(
                f"path: {where} has {found} {field}; a row needs text in {', '.join((*SENTENCE_FIELDS, *GROUP_FIELDS))}"
            )
    good, bad = (row[field] for field in SENTENCE_FIELDS)
    return MinimalPair(good, bad, *(PAPER_NAMES.get(row[field], row[field]) for field in GROUP_FIELDS))


def _read_local_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    is_folder = Path(path).expanduser().is_dir()
    for file in find_data_files(path, FILE_SUFFIXES):
        rows = read_json_objects(file)
        first = list(islice(rows, 1))
        if not (is_folder and first and first[0][1].keys().isdisjoint(SENTENCE_FIELDS)):
            yield from chain(first, rows)


def _read_hub_rows() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in HuggingFace(HUB_DATASET).list_configs():
        for number, row in enumerate(HuggingFace(HUB_DATASET, name).load_rows(), 1):
            yield f"{HUB_DATASET}, {name}, row {number}", row
