"""Figures of a study.

Parallel coordinates and the Pareto front are Optuna's. The others show what Optuna's versions do not: trials that are
paused, pruned or diverged, the baseline, one LR axis for all conditional ranges, and labels readable on a slide.
"""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.core.formatting import objective_label, shorten_keys
from harness.plotting import (
    BLUE,
    GREEN,
    GREY,
    LABEL_SIZE,
    LEGEND_SIZE,
    ORANGE,
    RED,
    SERIES_COLORS,
    TICK_SIZE,
    add_legend,
    make_axes,
    make_figure,
    mark_best,
    save_figure,
    style_axes,
    use_log_scale,
)
from harness.sweep.results.importance import compute_importances
from harness.sweep.results.summary import (
    TrialSummary,
    find_baseline,
    find_best_trials,
    read_objectives,
    summarize_trials,
)
from harness.sweep.space.search_space import CONDITION_SEPARATOR, config_key
from harness.sweep.study.trial_attrs import has_params_in_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATUS_COLORS = {"completed": BLUE, "paused": GREY, "pruned": ORANGE, "diverged": RED}
STATUS_MARKERS = {"completed": "o", "paused": "d", "pruned": "v"}
MIN_COMPLETED = 2
MAX_PANELS = 4  # in a row
OPTUNA_STYLE: dict[Any, Any] = {"figure.figsize": (7, 4.2), "font.size": TICK_SIZE, "axes.titlesize": LABEL_SIZE}
LOG_SCALE_RATIO = 10.0
"""Ratio of largest to smallest loss from which the loss axis is logarithmic."""


@dataclass(frozen=True)
class StudyData:
    """A study in the form its figures need: objective labels, and every trial as our summary and as Optuna's."""

    study: Study
    labels: Sequence[str]
    trials: Sequence[TrialSummary]
    frozen: Sequence[FrozenTrial]

    @cached_property
    def completed(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.status == "completed" and all(map(math.isfinite, trial.values))]

    @cached_property
    def best(self) -> TrialSummary:
        return find_best_trials(self.trials)[0]

    @property
    def losses(self) -> list[float]:
        return [trial.values[0] for trial in self.trials if trial.values and trial.status != "added"]


def draw_study_figures(study: Study, folder: Path) -> list[Path]:
    """Write every figure that the study has enough trials for to `folder`; errors become warnings."""
    labels = [objective_label(name) for name in read_objectives(study)]
    data = StudyData(study, labels, summarize_trials(study), study.get_trials(deepcopy=False))
    if len(data.completed) < MIN_COMPLETED:
        return []
    written = []
    for name, plot in FIGURES.items():
        path = folder / f"{name}.png"
        try:
            figure = plot(data)
            if figure is not None:
                save_figure(figure, path)
                written.append(path)
        except Exception as error:  # a figure must never end a sweep
            print(f"warning: could not draw {path.name}: {error}", file=sys.stderr)
    return written


def _plot_history(data: StudyData) -> "Figure | None":
    if len(data.labels) > 1:
        return None
    axes = make_axes("Trials", data.study.study_name, "trial", data.labels[0])
    for status, marker in STATUS_MARKERS.items():
        points = [(trial.number, trial) for trial in data.trials if trial.status == status and trial.values]
        _add_points(axes, points, STATUS_COLORS[status], marker, f"{len(points)} {status}")
    _add_diverged(axes, [trial.number for trial in data.trials if trial.status == "diverged"])
    numbers = [trial.number for trial in (*data.completed, data.trials[-1])]
    best = [find_best_trials(data.completed[: end + 1])[0].values[0] for end in range(len(data.completed))]
    axes.step(numbers, [*best, best[-1]], where="post", color=GREEN, label="best so far")
    _add_baseline(axes, data)
    _add_best(axes, data, data.best.number)
    _finish_axes(axes, data, data.losses)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return axes.figure


def _plot_learning_curves(data: StudyData) -> "Figure | None":
    drawn = [frozen for trial, frozen in zip(data.trials, data.frozen, strict=True) if trial.status in STATUS_COLORS]
    if not any(math.isfinite(loss) for frozen in drawn for loss in frozen.intermediate_values.values()):
        return None
    axes = make_axes("Learning curves", data.study.study_name, "share of the run (%)", data.labels[0])
    losses: list[float] = []
    labels: set[str] = set()
    for trial, frozen in zip(data.trials, data.frozen, strict=True):
        points = [
            (percent, loss) for percent, loss in sorted(frozen.intermediate_values.items()) if math.isfinite(loss)
        ]
        if not points or trial.status not in STATUS_COLORS:
            continue
        style: dict[str, Any]
        color, n_alike = STATUS_COLORS[trial.status], sum(other.status == trial.status for other in data.trials)
        label, style = f"{n_alike} {trial.status}", {"color": color, "linewidth": 1, "alpha": 0.6}
        if trial == data.best:
            label, style = f"best: trial {trial.number}", {"color": GREEN, "linewidth": 2.8, "zorder": 3}
        losses += [loss for _, loss in points]
        axes.plot(*zip(*points, strict=True), **style, label=None if label in labels else label)
        labels.add(label)
        if trial.status != "completed":
            axes.plot(*points[-1], STATUS_MARKERS.get(trial.status, "x"), color=color, markersize=6)
    _finish_axes(axes, data, losses)
    return axes.figure


def _plot_importances(data: StudyData) -> "Figure | None":
    importances = compute_importances(data.study)
    if not importances:
        return None
    x_label = f"importance for {data.labels[0]} (PED-ANOVA, {len(data.completed)} trials)"
    axes = make_axes("Parameter importances", data.study.study_name, x_label, "")
    axes.set_position((0.34, 0.13, 0.63, 0.72))
    labels = _label_params(importances)
    bars = axes.barh([labels[name] for name in importances], importances.values(), color=BLUE, height=0.6)
    axes.invert_yaxis()
    axes.bar_label(bars, fmt="{:.0%}", padding=4, fontsize=LEGEND_SIZE)
    axes.set_xlim(0, 1.1 * max(importances.values()))
    axes.xaxis.set_major_formatter("{x:.0%}")
    return axes.figure


def _plot_lr(data: StudyData) -> "Figure | None":
    series: dict[str, list[tuple[float, TrialSummary]]] = {}
    for trial, frozen in zip(data.trials, data.frozen, strict=True):
        for name, value in frozen.params.items() if trial.status in STATUS_COLORS else ():
            if config_key(name).split(".")[-1] == "lr" and isinstance(value, float | int):
                series.setdefault(name, []).append((value, trial))
    if not series:
        return None
    axes = make_axes(f"Learning rate and {data.labels[0]}", data.study.study_name, "learning rate", data.labels[0])
    labels = _label_params(series)
    for index, (name, trials) in enumerate(series.items()):
        color = SERIES_COLORS[index % len(SERIES_COLORS)]
        for status, marker in STATUS_MARKERS.items():
            points = [(lr, trial) for lr, trial in trials if trial.status == status and trial.values]
            _add_points(axes, points, color, marker, labels[name] + f", {status}" * (status != "completed"))
        for lr, trial in trials:
            if trial == data.best:
                _add_best(axes, data, lr)
    _add_diverged(axes, [lr for trials in series.values() for lr, trial in trials if trial.status == "diverged"])
    _add_baseline(axes, data)
    use_log_scale(axes, "x")
    _finish_axes(axes, data, data.losses)
    return axes.figure


def _plot_pareto_front(data: StudyData) -> "Figure | None":
    n_objectives = len(data.labels)
    if n_objectives not in (2, 3):  # Optuna draws two or three dimensions
        return None
    plot = optuna.visualization.matplotlib.plot_pareto_front
    return _plot_with_optuna(plot, _reduce_study(data, n_objectives), target_names=list(data.labels))


def _plot_slices(data: StudyData) -> "Figure | None":
    """Plot the loss of the completed trials over each parameter, in panels."""
    study = _reduce_study(data)
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    if not names:
        return None
    columns = min(MAX_PANELS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = make_figure(7, 0.7 + 3 * rows, layout="constrained")
    labels = _label_params(names)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        style_axes(axes)
        points = [(trial.params[name], trial.values[0]) for trial in trials if name in trial.params]
        dist = next(trial.distributions[name] for trial in trials if name in trial.params)
        x, losses = zip(*points, strict=True)
        if isinstance(dist, CategoricalDistribution):
            x = tuple(map(dist.choices.index, x))
            axes.set_xticks(range(len(dist.choices)), list(map(str, dist.choices)))
        axes.scatter(x, losses, color=BLUE, alpha=0.7, s=30)
        if getattr(dist, "log", False):
            use_log_scale(axes, "x")
        _scale_values(axes, data, data.losses)
        axes.tick_params("x", labelrotation=45)
        axes.set_xlabel(labels[name], fontsize=LABEL_SIZE)
        if index % columns == 0:
            axes.set_ylabel(data.labels[0], fontsize=LABEL_SIZE)
    figure.suptitle(f"Slices · {data.study.study_name}", x=0.01, ha="left", fontsize=15, fontweight="bold")
    return figure


def _plot_parallel_coordinates(data: StudyData) -> "Figure | None":
    study = _reduce_study(data)
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    params = [set(trial.params) for trial in completed if trial.params]  # a baseline outside the space has none
    shared = sorted(set.intersection(*params)) if params else []  # Optuna leaves out trials that lack one
    if not shared:
        return None
    plot = optuna.visualization.matplotlib.plot_parallel_coordinate
    figure = _plot_with_optuna(plot, study, params=shared, target_name=data.labels[0])
    for axes in figure.axes:
        if axes.get_yscale() == "log":
            use_log_scale(axes, "y")
        for label in axes.get_yticklabels():  # readable above the lines
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
        if axes.get_label() == "<colorbar>":
            left, bottom, width, height = axes.get_position().bounds
            axes.set_position((left + 0.06, bottom, width, height))  # beside the labels of the last parameter
    return figure


FIGURES: dict[str, Callable[[StudyData], "Figure | None"]] = {
    "history": _plot_history,
    "pareto": _plot_pareto_front,
    "curves": _plot_learning_curves,
    "importance": _plot_importances,
    "parallel": _plot_parallel_coordinates,
    "slices": _plot_slices,
    "lr": _plot_lr,
}


def _reduce_study(data: StudyData, n_objectives: int = 1) -> Study:
    """Return an in-memory copy for Optuna's figures: without constraints, and with one parameter per configuration key.

    Optuna calls a trial without constraints infeasible once another trial has one, and it draws conditional ranges of
    one key as separate parameters. Only completed trials count in its figures; the others stay so that numbers match.
    """
    kinds: dict[str, set[tuple[object, ...]]] = {}
    completed = {trial.number for trial in data.completed}
    for trial in data.frozen:
        for name, dist in trial.distributions.items() if trial.number in completed else ():
            kind = (type(dist), getattr(dist, "log", None), getattr(dist, "choices", None))
            kinds.setdefault(config_key(name), set()).add(kind)

    def rename(name: str) -> str:
        return config_key(name) if len(kinds[config_key(name)]) == 1 else name  # mixed kinds cannot share an axis

    reduced = optuna.create_study(directions=data.study.directions[:n_objectives])
    for trial in data.frozen:
        is_completed = trial.number in completed
        names = trial.distributions if is_completed and has_params_in_range(trial) else ()
        copy = create_trial(
            state=TrialState.COMPLETE if is_completed else TrialState.FAIL,
            values=trial.values[:n_objectives] if is_completed else None,
            params={rename(name): trial.params[name] for name in names},
            distributions={rename(name): trial.distributions[name] for name in names},
        )
        reduced.add_trial(copy)
    return reduced


def _plot_with_optuna(plot: Callable[..., Any], study: Study, **options: Any) -> "Figure":
    """Call one of Optuna's plot functions without leaving its style or its figure in pyplot."""
    from matplotlib import pyplot, rc_context

    logging.getLogger("matplotlib.category").setLevel(logging.WARNING)  # Optuna passes numeric choices as strings
    backend = pyplot.get_backend()
    pyplot.switch_backend("agg")  # no window, whatever backend is configured
    try:
        with rc_context(OPTUNA_STYLE), warnings.catch_warnings(action="ignore"):  # they are marked experimental
            axes = plot(study, **options)
        return getattr(axes, "flat", [axes])[0].figure
    finally:
        pyplot.close("all")
        pyplot.switch_backend(backend)


def _add_points(axes: Any, points: Sequence[tuple[float, TrialSummary]], color: str, marker: str, label: str) -> None:
    if points:
        x, y = zip(*((x, trial.values[0]) for x, trial in points), strict=True)
        face = color if marker == "o" else "none"
        axes.plot(x, y, marker, color=color, markerfacecolor=face, alpha=0.8, markersize=6, label=label)


def _add_diverged(axes: Any, x: Sequence[float]) -> None:
    """Mark diverged trials at the upper border, as they have no loss."""
    if x:
        transform = axes.get_xaxis_transform()
        axes.plot(x, [0.98] * len(x), "x", color=RED, transform=transform, label=f"{len(x)} diverged")


def _add_best(axes: Any, data: StudyData, x: float) -> None:
    loss = data.best.values[0]
    mark_best(axes, x, loss, f"best: trial {data.best.number}, {loss:.4g}")


def _add_baseline(axes: Any, data: StudyData) -> None:
    baseline = find_baseline(data.trials)
    if baseline is not None and baseline.status == "completed":
        loss = baseline.values[0]
        axes.axhline(loss, color=GREY, linewidth=1.2, linestyle="--", label=f"baseline, {loss:.4g}")


def _finish_axes(axes: Any, data: StudyData, values: Sequence[float]) -> None:
    _scale_values(axes, data, values)
    add_legend(axes)


def _scale_values(axes: Any, data: StudyData, values: Sequence[float]) -> None:
    """Use a logarithmic axis for losses that differ much; what is maximized, such as an accuracy, has a linear one."""
    is_minimized = data.study.directions[0] == StudyDirection.MINIMIZE
    if is_minimized and max(values) > LOG_SCALE_RATIO * min(values) > 0:
        use_log_scale(axes, "y")


def _label_params(names: Iterable[str]) -> dict[str, str]:
    """Return short labels for Optuna's parameter names, with the condition of a conditional range in brackets."""
    keys = shorten_keys(dict.fromkeys(map(config_key, names)))
    conditions = {name: name.partition(CONDITION_SEPARATOR)[2] for name in names}
    return {name: keys[config_key(name)] + (f" ({text})" if text else "") for name, text in conditions.items()}
