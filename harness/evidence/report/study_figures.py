"""The figures of a report on a study: curves, learning rate against the objective, and importances."""

import math
from collections.abc import Callable, Iterable, Iterator

from harness.core.formatting import objective_label, shorten_keys
from harness.evidence.charts.figure_data import Bars, Curves, Line, PointGroup, PointPanels, Points, Role
from harness.evidence.report.document import (
    Block,
    Name,
    Paragraph,
    ReportFigure,
    Text,
)
from harness.evidence.report.numbers import Reading
from harness.evidence.report.phrases import join_spans, make_id
from harness.evidence.report.study_numbers import StudyNumbers, is_same_trial, name_trial
from harness.evidence.report.study_source import Curve, select_drawn_trials
from harness.sweep.results.importance import MIN_TRIALS
from harness.sweep.results.summary import MEASURED, TrialSummary

MAX_CURVES, MAX_POINTS = 12, 200
MAX_PANELS = 8
GROUP_LABELS = {"trial": "completed"}
POINTS_CAPTION: Text = (
    "One run a point. Pruned trials have the value that they had when they were stopped; diverged ones have none and "
    "are marked at the border.",
)


def draw_figures(numbers: StudyNumbers) -> list[Block]:
    """Return the figures that the study has enough trials for, or sentences that say why there is none."""
    return [*_draw_curves(numbers), *_draw_rates(numbers), *_draw_space(numbers), *_draw_importances(numbers)]


def _find_role(numbers: StudyNumbers, trial: TrialSummary) -> Role:
    summary = numbers.source.summary
    if is_same_trial(trial, summary.best_trial):
        return "best"
    if is_same_trial(trial, summary.baseline):
        return "baseline"
    return "pruned" if trial.status == "pruned" else "diverged" if trial.status == "diverged" else "trial"


def _label_trial(numbers: StudyNumbers, trial: TrialSummary) -> str:
    names = [name_trial(trial, numbers.source).text]
    if is_same_trial(trial, numbers.source.summary.best_trial):
        names.insert(0, "best")
    return ": ".join(names)


def _label_objective(numbers: StudyNumbers) -> str:
    source = numbers.source
    return f"{source.label} ({source.unit})" if source.unit else source.label


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
        if _find_role(numbers, trial) in ("best", "baseline"):
            curve, place = found[trial.number], source.name_place(trial)
            first, last = (
                numbers.book.read(
                    make_id(f"trial {trial.number}", "curve", name), curve.values[index], source.unit,
                    Reading(place, source.objective, curve.steps[index], "first and last finite value"), "loss",
                )
                for name, index in (("first", 0), ("last", -1))
            )  # fmt: skip
            ends.append((Name(_label_trial(numbers, trial)), " from ", first, " to ", last))
    axis = "tokens" if by_tokens else "steps"
    alt = (Name(source.label), f" by {axis} during training: ", *join_spans(ends, "; "), ".") if ends else (
        Name(source.label), f" by {axis} during training.")  # fmt: skip
    shown = numbers.read_study("figure.curves", len(lines), "trials whose curves are drawn")
    among = ", the baseline and the best among them" if len(ends) > 1 else ", the best among them" if ends else ""
    caption: Text = (Name(source.label), f" by {axis}: ", shown, f" trials{among}. One run each.")
    data = Curves(lines, axis, _label_objective(numbers))
    yield ReportFigure("curves", data, alt, caption, tuple(source.name_place(trial) for trial in drawn))


def _make_line(numbers: StudyNumbers, trial: TrialSummary, curve: Curve, by_tokens: bool) -> Line:
    x = curve.tokens if by_tokens and curve.tokens else curve.steps
    return Line(_label_trial(numbers, trial), _find_role(numbers, trial), *thin_points(x, curve.values))


def thin_points(x: Iterable[float], y: Iterable[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return at most MAX_POINTS finite points of a curve, its first and last among them."""
    points = [(float(left), float(right)) for left, right in zip(x, y, strict=True) if math.isfinite(right)]
    every = max(1, -(-len(points) // MAX_POINTS))
    kept = [points[index] for index in sorted({*range(0, len(points), every), len(points) - 1}) if points]
    return tuple(left for left, _ in kept), tuple(right for _, right in kept)


def _draw_rates(numbers: StudyNumbers) -> Iterator[Block]:
    """Yield the objective by the learning rate, where one was searched."""
    source, best = numbers.source, numbers.source.summary.best_trial
    groups = _group_points(numbers, _find_rate)
    if sum(len(group.y) for group in groups) < 2:
        return
    alt: Text = (Name(source.label), " by learning rate.")
    rate = _find_rate(best) if best else None
    if best and isinstance(rate, float):
        place = Reading(source.name_place(best), "learning rate")
        number = numbers.book.read(make_id(f"trial {best.number}", "lr"), rate, "", place, "lr")
        extreme = "highest" if source.direction == "maximize" else "lowest"
        alt = (*alt[:1], f" by learning rate; the {extreme} is ", numbers.value_of(best), " at ", number, ".")
    data = Points(groups, "learning rate", _label_objective(numbers), is_x_log=True)
    yield ReportFigure("lr", data, alt, POINTS_CAPTION, (f"study {source.name}",))


def _draw_space(numbers: StudyNumbers) -> Iterator[Block]:
    """Yield the objective by each other searched setting, the most important first."""
    source, importances = numbers.source, numbers.source.summary.importances
    keys = dict.fromkeys(key for trial in source.summary.trials for key in trial.params if not is_learning_rate(key))
    ranked = sorted(keys, key=lambda key: -importances.get(key, 0.0))[:MAX_PANELS]
    labels = shorten_keys(ranked)
    panels, names = [], []
    for key in ranked:
        groups = _group_points(numbers, lambda trial, key=key: trial.params.get(key))  # type: ignore[misc]
        if sum(len(group.y) for group in groups) >= 2:
            panels.append(Points(groups, labels[key], _label_objective(numbers)))
            names.append(Name(labels[key]))
    if panels:
        alt: Text = (Name(source.label), " by each other searched setting: ", *join_spans(names), ".")
        yield ReportFigure("space", PointPanels(tuple(panels)), alt, POINTS_CAPTION, (f"study {source.name}",))


def _group_points(numbers: StudyNumbers, read_x: Callable[[TrialSummary], object]) -> tuple[PointGroup, ...]:
    """Return the measured trials that have a value of x, by the part they play."""
    points: dict[Role, list[tuple[object, TrialSummary]]] = {}
    for trial in numbers.source.summary.trials:
        x = read_x(trial)
        if x is not None and trial.status in MEASURED:
            points.setdefault(_find_role(numbers, trial), []).append((x, trial))
    return tuple(
        PointGroup(
            _label_trial(numbers, found[0][1]) if role in ("best", "baseline") else GROUP_LABELS.get(role, role),
            role,
            tuple(x for x, _ in found),
            tuple(trial.values[0] if trial.values else None for _, trial in found),
            tuple(name_trial(trial, numbers.source).text for _, trial in found),
        )
        for role, found in points.items()
    )


def _find_rate(trial: TrialSummary) -> float | None:
    rate = next((value for key, value in trial.params.items() if is_learning_rate(key)), None)
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


def is_learning_rate(key: str) -> bool:
    """Return whether a searched key is a learning rate, by the last part of its name."""
    name = key.lstrip("+").replace("/", ".").split(".")[-1].lower().replace("-", "_")
    return name in ("lr", "learning_rate", "learningrate", "max_lr", "peak_lr", "base_lr")


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
    data = Bars(tuple(labels[name] for name in importances), tuple(importances.values()), "share of the importance")
    objective = objective_label(source.objective)
    yield ReportFigure("importance", data, alt, caption, (f"study {source.name}: {objective}",))
