"""The report on runs without a study: what `plateau compare` says of them, as a document with sources."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from harness.evidence.charts.figure_data import Line
from harness.evidence.comparing.loss_curves import make_loss_curves
from harness.evidence.comparing.run_comparison import ComparedRun, Comparison, LossPoint, RunSummary, compare_histories
from harness.evidence.report.changes import compare_configs
from harness.evidence.report.cost import CostItem, report_cost
from harness.evidence.report.diagnosed import NamedRun, report_diagnoses, score_expectations
from harness.evidence.report.document import (
    Bare,
    Block,
    Code,
    Name,
    Paragraph,
    Quote,
    Report,
    ReportFigure,
    ReportSection,
    ReportTable,
    Text,
)
from harness.evidence.report.lexicon import check_document
from harness.evidence.report.limits import make_limits
from harness.evidence.report.numbers import Number, NumberBook, Reading, Style
from harness.evidence.report.phrases import DASH, join_spans, make_id, spell_difference
from harness.evidence.report.reached import tabulate_reached
from harness.evidence.report.study_figures import thin_points
from harness.evidence.report.study_numbers import cell_of
from harness.evidence.report.study_report import describe_sources

COMPARE = "plateau compare"


class SourceRun(NamedTuple):
    """A run and what the user called it."""

    place: str
    run: ComparedRun


class RunNumbers(NamedTuple):
    """The numbers of one run."""

    name: str
    best: Number
    final: Number
    cells: dict[str, Number]


def make_runs_report(runs: Sequence[SourceRun], price: float | None, inputs: dict[str, Any]) -> Report:
    """Return the report on one or more runs; differences are to the first."""
    book = NumberBook()
    # A run compared with itself gives its own summary; no difference of the two is used.
    compared = [one.run for one in runs]
    comparison = compare_histories(compared if len(runs) > 1 else [*compared, *compared])
    summaries = comparison.runs[: len(runs)]
    named = [
        NamedRun(summary.label if len(runs) > 1 else summary.name, one.place, one.run.history)
        for summary, one in zip(summaries, runs, strict=True)
    ]
    numbers = [_read_numbers(book, summary, run) for summary, run in zip(summaries, named, strict=True)]
    unit = next((summary.unit for summary in summaries if summary.unit), None) or ""
    has_several = len(runs) > 1
    configs = [compare_configs(book, [one.name for one in named], [one.history for one in named], [""] * len(named),
                               "not set")] if has_several else []  # fmt: skip
    sections = [
        _summarize(book, comparison, numbers, has_several),
        _list_runs(named, summaries),
        *configs,
        _tabulate_losses(book, comparison, numbers, named, has_several),
        *([tabulate_reached(book, named, unit)] if has_several and comparison.is_comparable else []),
        report_diagnoses(book, named, None),
        score_expectations(book, named),
        report_cost(book, [_list_cost(summary, run) for summary, run in zip(summaries, named, strict=True)], price),
        _list_limits(comparison, has_several),
        describe_sources(named),
    ]
    title = "Report on runs" if has_several else f"Report on the run {summaries[0].name}"
    report = Report(title, tuple(sections), book.numbers, inputs)
    check_document(report)
    return report


def _read_numbers(book: NumberBook, summary: RunSummary, run: NamedRun) -> RunNumbers:
    id, unit = make_id("run", run.name), summary.unit or ""

    def read_point(name: str, point: LossPoint | None) -> Number:
        reading = Reading(run.place, "val/loss", point.step if point else None, f"{name} evaluation")
        return book.read(f"{id}.{name}", point.value if point else None, unit, reading, "loss")

    values: dict[str, tuple[float | None, str, str, Style]] = {
        "standard error, best": (summary.best.standard_error if summary.best else None, unit, "val/loss_se", "error"),
        "train loss, last tenth": (summary.train_loss, unit, "train/loss", "loss"),
        "scored share of validation": (summary.coverage, "", "val/coverage", "plain"),
        "evaluations": (summary.evaluations, "", "number of evaluations", "whole"),
        "updates": (summary.updates, "", "last step", "whole"),
        "tokens": (summary.tokens, "tokens", "tokens at the last step", "count"),
        "time": (summary.seconds, "s", "seconds", "duration"),
        "parameters": (summary.parameters, "", "parameters", "count"),
        "trained parameters": (summary.trainable_parameters, "", "trainable parameters", "count"),
    }
    cells = {
        name: book.read(f"{id}.{make_id(name)}", value, number_unit, Reading(run.place, metric), style)
        for name, (value, number_unit, metric, style) in values.items()
    }
    for name, value in summary.objectives.items():
        reading = Reading(run.place, name)
        cells[name] = book.read(f"{id}.objective.{make_id(name)}", value, "", reading, "loss")
    return RunNumbers(run.name, read_point("best", summary.best), read_point("final", summary.final), cells)


def _summarize(
    book: NumberBook, comparison: Comparison, numbers: Sequence[RunNumbers], has_several: bool
) -> ReportSection:
    if not has_several:
        return ReportSection("summary", "Summary", (Paragraph(_describe_best(numbers[0]), is_verdict=True),))
    blocks: list[Block] = []
    quotes: Text = tuple(join_spans([Quote(reason, COMPARE) for reason in comparison.comparability.reasons], "; "))
    if not comparison.is_comparable:
        words: Text = ("The validation losses are not comparable, so that none is ranked: ", *quotes, ".")
        return ReportSection("summary", "Summary", (Paragraph(words, is_verdict=True),))
    first = numbers[0]
    texts: list[Text] = []
    for other in numbers[1:]:
        pair: Text = (Name(first.name), " and ", Name(other.name))
        if None in (first.best.value, other.best.value):
            texts.append(("The best validation losses of ", *pair, " cannot be compared, since one of them has none."))
        elif first.best.unit != other.best.unit:
            texts.append(("The best validation losses of ", *pair, " are not compared, since their units are not known "
                          "to be the same."))  # fmt: skip
        else:
            spans = spell_difference(book, make_id("run", other.name, "best"), first.best, other.best)
            values: Text = (other.best, ", against ", first.best, " of ", Name(first.name))
            texts.append(("The best validation loss of ", Name(other.name), " is ", *values, ": a difference of ",
                          *spans, "."))  # fmt: skip
    texts[0] = ("Nothing was confirmed. ", *texts[0])
    blocks += [Paragraph(text, is_verdict=True) for text in texts]
    single = book.read("run.n", 1, "", Reading("this report", "runs of each side"), "whole")
    blocks.append(Paragraph(("Each side is n = ", single, " run: the difference may be the noise of seeds. ",
                             Code("plateau confirm"), " runs both on fresh seeds.")))  # fmt: skip
    if comparison.comparability.verdict == "cannot tell":
        blocks.append(Paragraph(("Whether the losses are comparable is not known: ", *quotes, ".")))
    return ReportSection("summary", "Summary", tuple(blocks))


def _describe_best(numbers: RunNumbers) -> Text:
    if numbers.best.value is None:
        return (Name(numbers.name), " has no validation loss.")
    return ("The best validation loss of ", Name(numbers.name), " is ", numbers.best, ". It is one run.")


def _list_runs(runs: Sequence[NamedRun], summaries: Sequence[RunSummary]) -> ReportSection:
    rows = tuple(
        ((Name(run.name),), (Name(summary.name),), (Name(summary.status or "unknown"),), (Code(run.place),))
        for run, summary in zip(runs, summaries, strict=True)
    )
    table = ReportTable((("",), ("name",), ("status",), ("read from",)), rows)
    return ReportSection("asked", "What was read", (table,))


def _tabulate_losses(
    book: NumberBook, comparison: Comparison, numbers: Sequence[RunNumbers], runs: Sequence[NamedRun], has_several: bool
) -> ReportSection:
    units = [Name(summary.unit or "unknown") for summary in comparison.runs[: len(numbers)]]
    rows: list[tuple[Text, ...]] = [
        (("best validation loss",), *(cell_of(one.best) for one in numbers)),
        (("last validation loss",), *(cell_of(one.final) for one in numbers)),
        (("unit",), *((unit,) for unit in units)),
    ]
    for name in dict.fromkeys(name for one in numbers for name in one.cells):
        found = [one.cells.get(name) for one in numbers]
        if any(number is not None and number.value is not None for number in found):
            cells = tuple(DASH if number is None else cell_of(number) for number in found)
            rows.append(((Name(name),), *cells))
    caption: Text = ("The standard error is that over validation elements; it says nothing about other seeds.",)
    blocks: list[Block] = [ReportTable((("",), *((Name(one.name),) for one in numbers)), tuple(rows), caption)]
    if has_several and comparison.is_comparable:
        blocks += _tabulate_differences(book, numbers)
    if comparison.is_comparable:
        blocks += _draw_curves(runs)
    return ReportSection("results", "What was measured", tuple(blocks))


def _tabulate_differences(book: NumberBook, numbers: Sequence[RunNumbers]) -> list[Block]:
    rows = []
    first = numbers[0]
    for other in numbers[1:]:
        for name in ("best", "final"):
            pair: tuple[Number, Number] = getattr(first, name), getattr(other, name)
            if None not in (pair[0].value, pair[1].value) and pair[0].unit == pair[1].unit:
                spans = spell_difference(book, make_id("run", other.name, name), *pair)
                label: Text = (Name(f"{other.name} − {first.name}"), f", {'best' if name == 'best' else 'last'}")
                bare = tuple(Bare(one) if isinstance(one, Number) and one.unit != "%" else one for one in spans)
                rows.append((label, bare))
    if not rows:
        return []
    head: Text = ("difference (share of the loss of ", Name(first.name), ")")
    return [ReportTable((("",), head), tuple(rows))]


def _draw_curves(runs: Sequence[NamedRun]) -> list[Block]:
    """Return the validation curves, if the runs share an axis."""
    curves = make_loss_curves([(run.name, run.history) for run in runs])
    if curves is None:
        return []
    drawn = {line.label for line in curves.lines}
    lines = tuple(Line(line.label, line.role, *thin_points(line.x, line.y)) for line in curves.lines)
    names = join_spans(Name(line.label) for line in lines)
    alt: Text = (f"Validation loss by {curves.x_label} of ", *names, ".")
    places = tuple(run.place for run in runs if run.name in drawn)
    return [ReportFigure("curves", replace(curves, lines=lines), alt, (*alt, " One run each."), places)]


def _list_cost(summary: RunSummary, run: NamedRun) -> CostItem:
    tokens = None if summary.tokens is None else round(summary.tokens)
    return CostItem(run.name, run.place, 1, tokens, summary.seconds)


def _list_limits(comparison: Comparison, has_several: bool) -> ReportSection:
    items: list[Text] = [("What other seeds give: each configuration was run once.",)]
    if has_several:
        items += [("That every part of a difference has one cause: see the settings that differ.",)]
        items += [("More caution: ", Quote(note, COMPARE), ".") for note in comparison.notes]
    items.append(("Anything about other data, a model of another size, or longer training.",))
    return make_limits(items)
