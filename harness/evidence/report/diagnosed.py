"""Diagnoses in a report: findings of preflight, diagnoses of runs, and expectations with their outcome."""

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from harness.diagnosis import diagnose
from harness.diagnosis.assessment import assess
from harness.diagnosis.dialects import guess_dialect, render_suggestions
from harness.diagnosis.expectations import ExpectationResult, parse_expectation
from harness.diagnosis.history import History
from harness.diagnosis.thresholds import Thresholds
from harness.evidence.report.document import (
    Bare,
    Block,
    BulletList,
    Code,
    CommandLines,
    Name,
    Paragraph,
    Quote,
    ReportSection,
    ReportTable,
    Text,
)
from harness.evidence.report.numbers import NumberBook, Reading
from harness.evidence.report.phrases import DASH, make_id

PREFLIGHT_SOURCE = "preflight.txt of the sweep"


class NamedRun(NamedTuple):
    """A run by the name that the report gives it, and the place that its numbers come from."""

    name: str
    place: str
    history: History


def report_diagnoses(book: NumberBook, runs: Sequence[NamedRun], preflight: str | None) -> ReportSection:
    """Return findings of preflight, where there was one (None: not applicable), and the diagnoses of runs."""
    blocks: list[Block] = []
    if preflight is not None:
        blocks += _report_preflight(preflight)
    commands = []
    for run in runs:
        blocks += _diagnose_run(book, run)
        commands.append(f"plateau diagnose {shlex.quote(run.place)}")
    if commands:
        blocks += [Paragraph(("The rules and their thresholds, with all numbers:",)), CommandLines(tuple(commands))]
    else:
        blocks.append(Paragraph(("No run has a record that can be diagnosed.",)))
    return ReportSection("diagnosed", "What was diagnosed", tuple(blocks))


def _report_preflight(text: str) -> list[Block]:
    lines = text.strip().splitlines()
    if not lines:
        return [Paragraph(("Preflight was not run before the sweep, so that bugs were not looked for.",))]
    findings = re.findall(r"^(?:warn|fail)\b.*(?:\n +.*)*", text, re.MULTILINE)
    quotes = tuple((Quote(re.sub(r"\s+", " ", finding), PREFLIGHT_SOURCE),) for finding in findings)
    summary: Text = ("Preflight, before the first trial: ", Quote(lines[-1], PREFLIGHT_SOURCE), ".")
    return [Paragraph(summary), *([BulletList(quotes)] if quotes else [])]


def _diagnose_run(book: NumberBook, run: NamedRun) -> list[Block]:
    thresholds = Thresholds()
    found = diagnose(run.history, thresholds)
    source = f"plateau diagnose {run.place}"
    items: list[Text] = []
    for index, one in enumerate(found):
        id = make_id("diagnosis", run.name, f"n{index}")
        reading = Reading(run.place, f"confidence of the diagnosis {one.kind}")
        confidence = book.read(f"{id}.confidence", one.confidence, "", reading, "plain")
        item: Text = (Code(one.kind), ", ", Quote(run.history.describe_step(one.step), source), ", confidence ",
                      confidence, ": ", Quote(one.reason, source))  # fmt: skip
        lines = render_suggestions(one.suggestions, guess_dialect(run.history.facts))
        for number, line in enumerate(lines):
            item = (*item, "; or " if number else "; to try: ", Code(line))
        items.append((*item, "."))
    if items:
        return [Paragraph((Name(run.name), ":")), BulletList(tuple(items))]
    judged = assess(run.history, thresholds, found).lines(has_diagnoses=False)
    quotes = tuple((Quote(line.strip(), source),) for line in judged)
    return [Paragraph((Name(run.name), ": no rule found a problem.")), *([BulletList(quotes)] if quotes else [])]


def score_expectations(book: NumberBook, runs: Sequence[NamedRun]) -> ReportSection:
    """Return the forecasts that were written down before the runs, each with its outcome."""
    rows: list[tuple[Text, ...]] = []
    for run in runs:
        for index, text in enumerate(run.history.facts.expect):
            try:
                result = parse_expectation(text).evaluate(run.history)
            except ValueError:
                rows.append(((Name(run.name),), (Code(text),), ("cannot be read",), DASH, DASH))
                continue
            rows.append(_score_expectation(book, run, index, result))
    if not rows:
        words = ("Nothing was forecast before the runs: ", Code("expect"), " was not set.")
        return ReportSection("expected", "What was expected", (Paragraph(words),))
    header: tuple[Text, ...] = (("run",), ("forecast",), ("outcome",), ("measured",), ("minus the bound",))
    met = sum(row[2] == ("met",) for row in rows)
    place = Reading(", ".join(run.place for run in runs), "expectations that were met")
    count = book.read("expectations.met", met, "", place, "whole")
    total = book.read("expectations.all", len(rows), "", Reading(place.place, "expectations"), "whole")
    return ReportSection("expected", "What was expected", (
        Paragraph(("Written down before the runs, and scored after them: ", count, " of ", total, " met.")),
        ReportTable(header, tuple(rows)),
    ))  # fmt: skip


def _score_expectation(
    book: NumberBook, run: NamedRun, index: int, result: ExpectationResult
) -> tuple[Text, Text, Text, Text, Text]:
    wanted = result.expectation
    first: tuple[Text, Text, Text] = ((Name(run.name),), (Code(wanted.text),), (result.outcome,))
    if not result.is_decided:
        return (*first, DASH, DASH)
    id = make_id("expectation", run.name, f"n{index}")
    value = book.read(f"{id}.value", result.value, "", Reading(run.place, wanted.metric, result.step), "loss")
    bound = book.read(f"{id}.bound", wanted.bound, "", Reading(run.place, f"expect: {wanted.text}"), "plain")
    above = book.compute(f"{id}.above", f"{value.id} - {bound.id}", "", "signed")
    return (*first, (Bare(value),), (Bare(above),))
