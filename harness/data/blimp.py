"""BLiMP: pairs of sentences that differ in what makes one of them English (Warstadt et al., TACL 2020)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core.task import Mean
from harness.data.sources import HuggingFace, find_data_files, read_json_objects

HUB_DATASET = "nyu-mll/blimp"
"""The Hub's data set, a configuration a paradigm."""
FILE_SUFFIXES = (".jsonl", ".ndjson")
SENTENCE_FIELDS = ("sentence_good", "sentence_bad")
GROUP_FIELDS = ("UID", "linguistics_term", "field")
"""Of the paradigm, of the phenomenon it belongs to and of the field that studies it."""
PAPER_NAMES = {"s-selection": "argument_structure", "syntax/semantics": "syntax_semantics"}
"""Of the files, and what the paper's tables call them."""

GroupKind = Literal["all", "field", "phenomenon", "paradigm"]


@dataclass(frozen=True)
class MinimalPair:
    """`good` is acceptable and `bad` is not; `paradigm`, `phenomenon` and `field` say in which respect."""

    good: str
    bad: str
    paradigm: str
    phenomenon: str
    field: str


@dataclass(frozen=True)
class GroupAccuracy:
    """The share of the pairs of one kind and name of which the good sentence is the likelier one."""

    kind: GroupKind
    name: str
    accuracy: Mean


def read_minimal_pairs(path: str | None = None, per_paradigm: int | None = None) -> list[MinimalPair]:
    """The pairs, at most the first `per_paradigm` of each paradigm: of a file or a folder of JSONL, plain or .gz, where
    files without a sentence_good or sentence_bad in their first row are left out; of the Hub's data set by its name
    nyu-mll/blimp; none where `path` is null.

    FileNotFoundError where there is no file; ValueError, with file, line and field, for a row that is no pair."""
    if per_paradigm is not None and per_paradigm < 1:
        raise ValueError(f"per_paradigm={per_paradigm} must be at least 1, or null for all")
    if path is None:
        return []
    rows = _read_hub_rows() if path == HUB_DATASET else _read_local_rows(path)
    return _take_per_paradigm(_parse_rows(rows), per_paradigm)


def compute_accuracies(pairs: Sequence[MinimalPair], is_correct: Iterable[bool]) -> list[GroupAccuracy]:
    """Of all pairs, then of each field, phenomenon and paradigm by name; the overall one is the mean over pairs, which
    is the mean over paradigms where these have equally many."""
    shares: dict[tuple[GroupKind, str], Mean] = {}
    for pair, right in zip(pairs, is_correct, strict=True):
        of = ("all", "accuracy"), ("field", pair.field), ("phenomenon", pair.phenomenon), ("paradigm", pair.paradigm)
        for key in of:
            one = Mean(float(right), 1, "share of pairs", float(right))
            shares[key] = shares[key] + one if key in shares else one
    order: tuple[GroupKind, ...] = ("all", "field", "phenomenon", "paradigm")
    return [GroupAccuracy(*key, shares[key]) for key in sorted(shares, key=lambda key: (order.index(key[0]), key[1]))]


def _take_per_paradigm(pairs: Iterable[MinimalPair], per_paradigm: int | None) -> list[MinimalPair]:
    by_paradigm: dict[str, list[MinimalPair]] = {}
    for pair in pairs:
        by_paradigm.setdefault(pair.paradigm, []).append(pair)
    return [pair for paradigm in sorted(by_paradigm) for pair in by_paradigm[paradigm][:per_paradigm]]


def _parse_rows(rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[MinimalPair]:
    """ValueError for a row that lacks something, stands twice, or puts its paradigm elsewhere than one before it."""
    seen: dict[MinimalPair, str] = {}
    groups: dict[str, tuple[tuple[str, str], str]] = {}
    for where, row in rows:
        pair = _parse_row(row, where)
        if pair in seen:
            raise ValueError(f"path: {where} is the pair of {seen[pair]} again; leave one out")
        seen[pair] = where
        group, first = groups.setdefault(pair.paradigm, ((pair.phenomenon, pair.field), where))
        if group != (pair.phenomenon, pair.field):
            raise ValueError(
                f"path: {where} puts the UID {pair.paradigm!r} under {pair.phenomenon!r} of {pair.field!r}, "
                f"and {first} under {group[0]!r} of {group[1]!r}; make them agree"
            )
        yield pair
    if not seen:
        raise ValueError("path: there are no pairs in it")


def _parse_row(row: dict[str, Any], where: str) -> MinimalPair:
    for field in (*SENTENCE_FIELDS, *GROUP_FIELDS):
        if not isinstance(row.get(field), str) or not row[field].strip():
            found = f"{row[field]!r} in" if field in row else "no"
            raise ValueError(
                f"path: {where} has {found} {field}; a row needs text in {', '.join((*SENTENCE_FIELDS, *GROUP_FIELDS))}"
            )
    return MinimalPair(
        *(row[field] for field in SENTENCE_FIELDS), *(PAPER_NAMES.get(row[field], row[field]) for field in GROUP_FIELDS)
    )


def _read_local_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    is_folder = Path(path).expanduser().is_dir()
    for file in find_data_files(path, FILE_SUFFIXES):
        rows = list(read_json_objects(file))
        if not (is_folder and rows and rows[0][1].keys().isdisjoint(SENTENCE_FIELDS)):
            yield from rows


def _read_hub_rows() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in HuggingFace(HUB_DATASET).list_configs():
        for number, row in enumerate(HuggingFace(HUB_DATASET, name).load_rows(), 1):
            yield f"{HUB_DATASET}, {name}, row {number}", row
