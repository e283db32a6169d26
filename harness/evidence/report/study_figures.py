"""The figures of a report on a study: curves, learning rate against the objective, and importances."""

import math
from collections.abc import Iterable, Iterator

from harness.core.formatting import objective_label, shorten_keys
from harness.evidence.charts.figure_data import Bars, Curves, Line
from harness.evidence.report.document import (
    Block,
    Name,
    Paragraph,
    ReportFigure,
    Span,
    Text,
)
from harness.evidence.report.numbers import Reading
from harness.evidence.report.parameter_figures import draw_parameters
from harness.evidence.report.phrases import join_spans, make_id
from harness.evidence.report.study_numbers import StudyNumbers
from harness.evidence.report.study_source import Curve, select_drawn_trials
from harness.sweep.results.importance import MIN_TRIALS
from harness.sweep.results.summary import TrialSummary

MAX_CURVES, MAX_POINTS = 60, 200


def draw_figures(numbers: StudyNumbers) -> list[Block]:
    """Return the figures that the study has enough trials for, or sentences that say why there is none."""
    return [*_draw_curves(numbers), *draw_parameters(numbers), *_draw_importances(numbers)]


def _draw_curves(numbers: StudyNumbers) -> Iterator[Block]:
    source = numbers.source
    trials = select_drawn_trials(source, MAX_CURVES)
    found = {trial.number: curve for trial in trials if (curve := source.read_curve(trial)) and len(curve.steps) > 1}
    if not found:
        return
    by_tokens = all(curve.tokens and curve.tokens[-1] > 0 for curve in found.values())
    drawn = [trial for trial in trials if trial.number in found]
    lines = tuple(_make_line(numbers, trial, found[trial.number], by_tokens) for trial in drawn)
    ends: list[Text] = []
    for trial in drawn:
        if numbers.find_role(trial) in ("best", "baseline"):
            curve, place = found[trial.number], source.name_place(trial)
            first, last = (
                numbers.book.read(
                    make_id(f"trial {trial.number}", "curve", name), curve.values[index], source.unit,
                    Reading(place, source.objective, curve.steps[index], "first and last finite value"), "loss",
                )
                for name, index in (("first", 0), ("last", -1))
            )  # fmt: skip
            ends.append((Name(numbers.label_trial(trial)), " from ", first, " to ", last))
    axis = "tokens" if by_tokens else "steps"
    alt = (Name(source.label), f" by {axis} during training: ", *join_spans(ends, "; "), ".") if ends else (
        Name(source.label), f" by {axis} during training.")  # fmt: skip
    shown = numbers.read_study("figure.curves", len(lines), "trials whose curves are drawn")
    caption: list[Span] = [Name(source.label), f" by {axis} of ", shown]
    if len(drawn) < source.summary.n_measured:
        caption += [" of ", numbers.n_measured]
    caption.append(" trials, one run each.")
    if any(trial.status == "paused" for trial in drawn):
        caption.append(" A circle marks where a trial is paused.")
    if any(trial.status == "pruned" for trial in drawn):
        caption.append(" A triangle marks where a trial was pruned.")
    if any(trial.status == "diverged" for trial in drawn):
        caption.append(" A cross marks the last finite value of a trial that diverged.")
    data = Curves(lines, axis, numbers.axis_label)
    yield ReportFigure("curves", data, alt, tuple(caption), tuple(source.name_place(trial) for trial in drawn))


def _make_line(numbers: StudyNumbers, trial: TrialSummary, curve: Curve, by_tokens: bool) -> Line:
    x = curve.tokens if by_tokens and curve.tokens else curve.steps
    return Line(numbers.label_trial(trial), numbers.find_role(trial), *thin_points(x, curve.values))


def thin_points(x: Iterable[float], y: Iterable[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return at most MAX_POINTS finite points of a curve, its first and last among them."""
    points = [(float(left), float(right)) for left, right in zip(x, y, strict=True) if math.isfinite(right)]
    every = max(1, -(-len(points) // MAX_POINTS))
    kept = [points[index] for index in sorted({*range(0, len(points), every), len(points) - 1}) if points]
    return tuple(left for left, _ in kept), tuple(right for _, right in kept)


def _draw_importances(numbers: StudyNumbers) -> Iterator[Block]:
    source = numbers.source
    importances = dict(sorted(source.summary.importances.items(), key=lambda item: -item[1]))
    completed = numbers.read_study("study.completed", source.summary.n_completed, "trials that are completed")
    if not importances:
        least = numbers.read_study("importance.least", MIN_TRIALS, "completed trials with values that importances need")
        yield Paragraph((
            "Importance of the parameters: not computed; it needs ", least, " completed trials with values in the "
            "space, and there are ", completed, " completed ones.",
        ))  # fmt: skip
        return
    labels = shorten_keys(importances)
    spans: list[Text] = []
    for index, (name, value) in enumerate(importances.items()):
        reading = Reading(f"study {source.name}", f"PED-ANOVA importance of {name} for {source.objective}")
        number = numbers.book.read(f"importance.n{index}", value, "", reading, "plain")
        spans.append((Name(labels[name]), " ", number))
    alt: Text = ("Shares of the importance: ", *join_spans(spans), ".")
    caption: Text = (
        "Importance by PED-ANOVA over ", completed, " completed trials: shares of their sum, which is one. It says "
        "which parameters set the best trials apart in this space, not how much each gains.",
    )  # fmt: skip
    data = Bars(tuple(labels[name] for name in importances), tuple(importances.values()), "share of the importance",
                is_percent=True)  # fmt: skip
    objective = objective_label(source.objective)
    yield ReportFigure("importance", data, alt, caption, (f"study {source.name}: {objective}",))
