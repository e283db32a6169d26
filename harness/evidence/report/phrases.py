"""Parts of sentences that several sections share: values, differences with their formula, lists."""

import re
from collections.abc import Iterable

from harness.evidence.report.document import Bare, Code, Span, Text
from harness.evidence.report.numbers import Number, NumberBook, Reading, Style

DASH: Text = ("–",)
"""The cell of a table for what is unknown or does not apply."""


def make_id(*parts: object) -> str:
    """Return an id of a number from words and numbers: ("trial 7", "val/loss") gives trial_7.val_loss."""
    words = (re.sub(r"[^a-z0-9]+", "_", str(part).lower()).strip("_") for part in parts)
    return ".".join(word if re.match(r"[a-z_]", word) else f"n{word}" for word in words)


def spell_difference(book: NumberBook, id: str, first: Number, second: Number, style: Style = "signed") -> list[Span]:
    """Return `second` minus `first`, and what share of `first` that is, with numerator and denominator.

    Numbers of different signs, or zero, have no such share.
    """
    difference = book.compute(f"{id}.difference", f"{second.id} - {first.id}", second.unit, style)
    spans: list[Span] = [difference]
    if not (first.value or 0) * (second.value or 0) > 0:
        return spans
    relative = book.compute(f"{id}.relative", f"{difference.id} / abs({first.id}) * 100", "%", "signed percent")
    if relative.value is not None:
        denominator = book.compute(f"{id}.denominator", f"abs({first.id})", first.unit, first.style)
        spans += [" (", relative, " = ", Bare(difference), " / ", Bare(denominator), ")"]
    return spans


def join_spans(items: Iterable[Span | Text], separator: str = ", ") -> list[Span]:
    """Return spans or texts one after another, separated."""
    spans: list[Span] = []
    for item in items:
        spans += [separator] if spans else []
        spans += item if isinstance(item, tuple) else [item]
    return spans


def count_things(book: NumberBook, id: str, count: int, source: Reading, singular: str, plural: str = "") -> list[Span]:
    """Return a number of things with their name."""
    number = book.read(id, count, "", source, "whole")
    return [number, f" {singular if count == 1 else plural or f'{singular}s'}"]


def format_cell(value: object) -> Text:
    """Return the value of a setting for a cell; "not set" where there is none."""
    return ("not set",) if value is None else (Code(shorten_text(str(value))),)


def shorten_text(text: str, limit: int = 60) -> str:
    """Return a text in one line, without its middle if it is long."""
    line = re.sub(r"\s+", " ", "".join(char if char.isprintable() else " " for char in text)).strip() or "''"
    side = (limit - 1) // 2
    return line if len(line) <= limit else f"{line[:side]}…{line[-side:]}"
