"""BLiMP: pairs of sentences that differ in what makes one of them English (Warstadt et al., TACL 2020)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core.task import Mean
from harness.data.sources import HuggingFace, find_files, objects

PUBLIC = "nyu-mll/blimp"
"""The Hub's data set, a configuration a paradigm."""
SUFFIXES = (".jsonl", ".ndjson")
SENTENCES = ("sentence_good", "sentence_bad")
NAMES = ("UID", "linguistics_term", "field")
"""Of the paradigm, of the phenomenon it belongs to and of the field that studies it."""
SPELLINGS = {"s-selection": "argument_structure", "syntax/semantics": "syntax_semantics"}
"""Of the files, and what the paper's tables call them."""

Kind = Literal["all", "field", "phenomenon", "paradigm"]


@dataclass(frozen=True)
class Pair:
    """`good` is acceptable and `bad` is not; `paradigm`, `phenomenon` and `field` say in which respect."""

    good: str
    bad: str
    paradigm: str
    phenomenon: str
    field: str


@dataclass(frozen=True)
class Accuracy:
    """The share of the pairs of one kind and name of which the good sentence is the likelier one."""

    kind: Kind
    name: str
    share: Mean


def read(path: str | None = None, per_paradigm: int | None = None) -> list[Pair]:
    """The pairs, at most the first `per_paradigm` of each paradigm: of a file or a folder of JSONL, plain or .gz, where
    files without a sentence_good or sentence_bad in their first row are left out; of the Hub's data set by its name
    nyu-mll/blimp; none where `path` is null.

    FileNotFoundError where there is no file; ValueError, with file, line and field, for a row that is no pair."""
    if per_paradigm is not None and per_paradigm < 1:
        raise ValueError(f"per_paradigm={per_paradigm} must be at least 1, or null for all")
    if path is None:
        return []
    rows = _public() if path == PUBLIC else _local(path)
    return _first(_checked(rows), per_paradigm)


def accuracies(pairs: Sequence[Pair], is_right: Iterable[bool]) -> list[Accuracy]:
    """Of all pairs, then of each field, phenomenon and paradigm by name; the overall one is the mean over pairs, which
    is the mean over paradigms where these have equally many."""
    shares: dict[tuple[Kind, str], Mean] = {}
    for pair, right in zip(pairs, is_right, strict=True):
        of = ("all", "accuracy"), ("field", pair.field), ("phenomenon", pair.phenomenon), ("paradigm", pair.paradigm)
        for key in of:
            one = Mean(float(right), 1, "share of pairs", float(right))
            shares[key] = shares[key] + one if key in shares else one
    order: tuple[Kind, ...] = ("all", "field", "phenomenon", "paradigm")
    return [Accuracy(*key, shares[key]) for key in sorted(shares, key=lambda key: (order.index(key[0]), key[1]))]


def _first(pairs: Iterable[Pair], per_paradigm: int | None) -> list[Pair]:
    by_paradigm: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_paradigm.setdefault(pair.paradigm, []).append(pair)
    return [pair for paradigm in sorted(by_paradigm) for pair in by_paradigm[paradigm][:per_paradigm]]


def _checked(rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Pair]:
    """ValueError for a row that lacks something, stands twice, or puts its paradigm elsewhere than one before it."""
    seen: dict[Pair, str] = {}
    groups: dict[str, tuple[tuple[str, str], str]] = {}
    for where, row in rows:
        pair = _pair(row, where)
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


def _pair(row: dict[str, Any], where: str) -> Pair:
    for field in (*SENTENCES, *NAMES):
        if not isinstance(row.get(field), str) or not row[field].strip():
            found = f"{row[field]!r} in" if field in row else "no"
            raise ValueError(
                f"path: {where} has {found} {field}; a row needs text in {', '.join((*SENTENCES, *NAMES))}"
            )
    return Pair(*(row[field] for field in SENTENCES), *(SPELLINGS.get(row[field], row[field]) for field in NAMES))


def _local(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    is_folder = Path(path).expanduser().is_dir()
    for file in find_files(path, SUFFIXES):
        rows = list(objects(file))
        if not (is_folder and rows and rows[0][1].keys().isdisjoint(SENTENCES)):
            yield from rows


def _public() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in HuggingFace(PUBLIC).names():
        for number, row in enumerate(HuggingFace(PUBLIC, name).rows(), 1):
            yield f"{PUBLIC}, {name}, row {number}", row
