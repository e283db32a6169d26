"""Pictures of a study. Optuna's own restyle all of matplotlib, and call every trial infeasible that has no constraint
while another has; ours stand by those of a run."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from harness.observers.figures import BLUE, GREEN, GREY, ORANGE, make_axes, make_figure, save_figure, style_axes
from harness.sweep.report.importance import compute_importances
from harness.sweep.report.summary import (
    TrialSummary,
    find_baseline,
    find_best_trials,
    objective_label,
    read_objectives,
    shorten_keys,
    summarize_trials,
)
from harness.sweep.space.search_space import CONDITION_SEPARATOR, config_key

RED = "#c0392b"
SERIES_COLORS = (BLUE, ORANGE, GREEN, "#8b5cf6", "#0e9aa7", "#b45309")
STATUS_COLORS = {"completed": BLUE, "pruned": ORANGE, "diverged": RED}
MIN_COMPLETED, LOG_SCALE_RATIO = 2, 10.0
"""Completed trials that make a picture, and the ratio of losses from which they are drawn on a logarithmic scale."""


@dataclass(frozen=True)
class StudyData:
    """A study as its pictures need it; `done` are the completed trials, `keys` what differs among them, `logs` the keys
    that are searched logarithmically."""

    study: Study
    labels: Sequence[str]
    trials: Sequence[TrialSummary]
    frozen: Sequence[FrozenTrial]

    @property
    def completed(self) -> list[TrialSummary]:
        return [trial for trial in self.trials if trial.status == "completed" and all(map(math.isfinite, trial.values))]

    @property
    def best(self) -> TrialSummary | None:
        return next(iter(find_best_trials(self.trials)), None)

    @property
    def varying_keys(self) -> list[str]:
        found = dict.fromkeys(config_key(name) for trial in self.frozen for name in trial.params)
        return [key for key in found if len({str(trial.params.get(key)) for trial in self.completed}) > 1]

    @property
    def log_keys(self) -> set[str]:
        return {
            config_key(name)
            for trial in self.frozen
            for name, found in trial.distributions.items()
            if getattr(found, "log", False)
        }


def draw_study_figures(study: Study, folder: Path) -> list[Path]:
    """The pictures of the study that there are trials enough for, written to `folder`; never an error."""
    written = []
    drawn = StudyData(
        study,
        [objective_label(name) for name in read_objectives(study)],
        summarize_trials(study),
        study.get_trials(False),
    )
    for name, picture in FIGURES.items():
        try:
            figure = picture(drawn) if len(drawn.completed) >= MIN_COMPLETED else None
            if figure is not None:
                save_figure(figure, folder / f"{name}.png")
                written.append(folder / f"{name}.png")
        except Exception as error:  # a picture is never worth a sweep
            print(f"warning: no picture of the sweep's {name}: {error}", file=sys.stderr)
    return written


def _plot_history(drawn: StudyData) -> Any:
    if len(drawn.labels) > 1:
        return None
    axes = make_axes("Trials", drawn.study.study_name, "trial", drawn.labels[0])
    for status, marker in (("completed", "o"), ("pruned", "v")):
        found = [trial for trial in drawn.trials if trial.status == status and trial.values]
        _add_points(
            axes, found, [trial.number for trial in found], STATUS_COLORS[status], marker, f"{len(found)} {status}"
        )
    _add_diverged(axes, drawn, [trial.number for trial in drawn.trials if trial.status == "diverged"])
    ends = [*drawn.completed, drawn.trials[-1]]
    lowest = [min(trial.values[0] for trial in drawn.completed[: at + 1]) for at in range(len(drawn.completed))]
    axes.step([trial.number for trial in ends], [*lowest, lowest[-1]], where="post", color=GREEN, label="best so far")
    _add_baseline(axes, drawn)
    _add_best(axes, drawn, drawn.best.number)
    _add_legend(axes, [trial.values[0] for trial in drawn.trials if trial.values])
    axes.xaxis.get_major_locator().set_params(integer=True)
    return axes.figure


def _plot_learning_curves(drawn: StudyData) -> Any:
    if not any(trial.intermediate_values for trial in drawn.frozen):
        return None
    axes = make_axes("Learning curves", drawn.study.study_name, "share of the run (%)", "validation loss")
    losses, named = [], set()
    for trial, frozen in zip(drawn.trials, drawn.frozen, strict=True):
        points = [(at, loss) for at, loss in sorted(frozen.intermediate_values.items()) if math.isfinite(loss)]
        if not points or trial.status not in STATUS_COLORS:
            continue
        colour, size = STATUS_COLORS[trial.status], sum(other.status == trial.status for other in drawn.trials)
        text, look = f"{size} {trial.status}", {"color": colour, "linewidth": 1, "alpha": 0.6}
        if trial == drawn.best:
            text, look = f"best: trial {trial.number}", {"color": GREEN, "linewidth": 2.8, "zorder": 3}
        losses += [loss for _, loss in points]
        axes.plot(*zip(*points, strict=True), **look, label=None if text in named else text)
        named.add(text)
        if trial.status != "completed":
            axes.plot(*points[-1], "v" if trial.status == "pruned" else "x", color=colour, markersize=6)
    _add_legend(axes, losses)
    return axes.figure


def _plot_importances(drawn: StudyData) -> Any:
    weights = compute_importances(drawn.study)
    if not weights:
        return None
    across = f"importance for {drawn.labels[0]} (PED-ANOVA, {len(drawn.completed)} completed trials)"
    axes = make_axes("What set the best trials apart", drawn.study.study_name, across, "")
    axes.set_position((0.32, 0.13, 0.62, 0.72))
    names = shorten_keys(dict.fromkeys(config_key(name) for name in weights))
    rows = [f"{names[config_key(name)]}{_format_condition(name)}" for name in weights][::-1]
    bars = axes.barh(range(len(rows)), [*weights.values()][::-1], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="{:.0%}", padding=4, fontsize=9)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlim(0, 1.1 * max(weights.values()))
    axes.xaxis.set_major_formatter("{x:.0%}")
    return axes.figure


def _plot_parallel_coordinates(drawn: StudyData) -> Any:
    if not drawn.varying_keys:
        return None
    columns = [*drawn.varying_keys, drawn.labels[0]]
    figure = make_figure(max(7, 1.5 * len(columns)), 4.2)
    axes = figure.add_axes((0.07, 0.13, 0.86, 0.68))
    axes.set_title("Parameters and loss", loc="left", fontsize=13, fontweight="bold", pad=36)
    axes.text(0, 1.1, drawn.study.study_name, transform=axes.transAxes, color=GREY, fontsize=9)
    places = [_axis_positions(drawn, key) for key in drawn.varying_keys] + [
        _scale_to_axis([t.values[0] for t in drawn.completed], is_log=False)
    ]
    colours = axes.scatter([], [], c=[], cmap="Blues_r").to_rgba([0.8 * height for height in places[-1][0]], norm=False)
    for row in sorted(range(len(drawn.completed)), key=lambda row: -drawn.completed[row].values[0]):  # the best on top
        is_best = drawn.completed[row] == drawn.best
        look = {"linewidth": 3, "color": GREEN} if is_best else {"linewidth": 1.3, "color": colours[row]}
        axes.plot(range(len(columns)), [column[row] for column, _ in places], **look)
    for at, (_, ticks) in enumerate(places):
        axes.axvline(at, color=GREY, linewidth=1, zorder=0)
        for height, text in ticks:
            axes.text(at + 0.03, height, text, fontsize=8, va="center", bbox={"color": "white", "alpha": 0.7, "pad": 1})
    names = shorten_keys(drawn.varying_keys)
    axes.set_xticks(range(len(columns)), [names.get(column, column) for column in columns])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    best = f"green: trial {drawn.best.number}, the best of {len(drawn.completed)} completed; the paler, the higher its"
    axes.text(0, -0.1, f"{best} {drawn.labels[0]}", transform=axes.transAxes, color=GREY, fontsize=9)
    return figure


def _plot_slices(drawn: StudyData) -> Any:
    keys, names = drawn.varying_keys, shorten_keys(drawn.varying_keys)
    if not keys:
        return None
    across = min(3, len(keys))
    down = math.ceil(len(keys) / across)
    figure = make_figure(1 + 3 * across, 0.9 + 2.7 * down)
    figure.suptitle(f"{drawn.study.study_name}: {drawn.labels[0]} by parameter", x=0.02, ha="left", fontweight="bold")
    for at, key in enumerate(keys):
        axes = figure.add_subplot(down, across, at + 1)
        style_axes(axes)
        places, found = zip(*[(t.params[key], t) for t in drawn.completed if key in t.params], strict=True)
        places = places if _is_numeric(places) else [str(place) for place in places]
        heights = [trial.values[0] for trial in found]
        seen = axes.scatter(places, heights, c=[t.number for t in found], cmap="Blues", edgecolors=GREY, linewidths=0.5)
        if drawn.best in found:
            axes.plot(places[found.index(drawn.best)], drawn.best.values[0], "*", color=GREEN, markersize=15)
        if key in drawn.log_keys:
            axes.set_xscale("log")
            axes.set_xticks(*_axis_ticks(min(places), max(places), is_log=True), minor=False)
            axes.set_xticks([], minor=True)
        axes.set_yscale(_choose_scale(heights))
        axes.set_xlabel(names[key])
    figure.set_layout_engine("constrained")
    figure.colorbar(seen, ax=figure.axes, label="trial")
    return figure


def _plot_lr(drawn: StudyData) -> Any:
    series: dict[str, list[tuple[float, TrialSummary]]] = {}
    for trial, frozen in zip(drawn.trials, drawn.frozen, strict=True):
        for name, value in frozen.params.items():
            if config_key(name).split(".")[-1] == "lr" and isinstance(value, float | int):
                series.setdefault(name, []).append((value, trial))
    if not series:
        return None
    axes = make_axes("Learning rate and loss", drawn.study.study_name, "learning rate", drawn.labels[0])
    shown = shorten_keys(dict.fromkeys(map(config_key, series)))
    for at, (name, found) in enumerate(series.items()):
        colour, text = SERIES_COLORS[at % len(SERIES_COLORS)], f"{shown[config_key(name)]}{_format_condition(name)}"
        for status, marker in (("completed", "o"), ("pruned", "v")):
            points = [(x, trial) for x, trial in found if trial.status == status and trial.values]
            suffix = "" if status == "completed" else ", pruned"
            _add_points(axes, [t for _, t in points], [x for x, _ in points], colour, marker, text + suffix)
        if drawn.best in [trial for _, trial in found]:
            _add_best(axes, drawn, next(x for x, trial in found if trial == drawn.best))
    _add_diverged(axes, drawn, [x for found in series.values() for x, trial in found if trial.status == "diverged"])
    _add_baseline(axes, drawn)
    axes.set_xscale("log")
    _add_legend(axes, [trial.values[0] for trial in drawn.trials if trial.values])
    return axes.figure


def _plot_pareto_front(drawn: StudyData) -> Any:
    if len(drawn.labels) < 2:
        return None
    axes = make_axes("Pareto front", drawn.study.study_name, drawn.labels[1], drawn.labels[0])
    best = sorted(find_best_trials(drawn.trials), key=lambda trial: trial.values[1])
    behind = [trial for trial in drawn.completed if trial not in best]
    _add_points(axes, behind, [trial.values[1] for trial in behind], GREY, "o", f"{len(behind)} others")
    axes.plot([t.values[1] for t in best], [t.values[0] for t in best], color=GREEN, linewidth=1, alpha=0.5)
    _add_points(axes, best, [trial.values[1] for trial in best], GREEN, "o", f"{len(best)} that none beats in all")
    for trial in best:
        axes.annotate(f" {trial.number}", (trial.values[1], trial.values[0]), fontsize=8)
    _add_baseline(axes, drawn)
    _add_legend(axes, [trial.values[0] for trial in drawn.completed])
    return axes.figure


FIGURES: dict[str, Callable[[StudyData], Any]] = {
    "history": _plot_history,
    "pareto": _plot_pareto_front,
    "curves": _plot_learning_curves,
    "importance": _plot_importances,
    "parallel": _plot_parallel_coordinates,
    "slices": _plot_slices,
    "lr": _plot_lr,
}


def _add_points(
    axes: Any, trials: Iterable[TrialSummary], across: Sequence[float], colour: str, marker: str, text: str
) -> None:
    heights = [trial.values[0] for trial in trials]
    face = colour if marker == "o" else "none"
    if heights:
        axes.plot(across, heights, marker, color=colour, markerfacecolor=face, alpha=0.8, markersize=6, label=text)


def _add_diverged(axes: Any, drawn: StudyData, across: Sequence[float]) -> None:
    """At the top, for they have no loss."""
    if across:
        top, text = axes.get_xaxis_transform(), f"{len(across)} diverged"
        axes.plot(across, [0.98] * len(across), "x", color=RED, transform=top, label=text)


def _add_best(axes: Any, drawn: StudyData, x: float) -> None:
    best = drawn.best
    text = f"best: trial {best.number}, {best.values[0]:.4g}"
    axes.plot(x, best.values[0], "*", color=GREEN, markersize=15, linestyle="none", label=text)


def _add_baseline(axes: Any, drawn: StudyData) -> None:
    base = find_baseline(drawn.trials)
    if base is not None and base.status == "completed":
        text = f"baseline, {base.values[0]:.4g}"
        axes.axhline(base.values[0], color=GREY, linewidth=1.2, linestyle="--", label=text)


def _add_legend(axes: Any, losses: Sequence[float]) -> None:
    axes.set_yscale(_choose_scale(losses))
    axes.legend(frameon=False, fontsize=9)


def _choose_scale(losses: Sequence[float]) -> str:
    return "log" if max(losses) > LOG_SCALE_RATIO * min(losses) > 0 else "linear"


def _format_condition(name: str) -> str:
    where = name.partition(CONDITION_SEPARATOR)[2]
    return f" ({where})" if where else ""


def _is_numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _axis_positions(drawn: StudyData, key: str) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights of the trials on the key's axis, NaN for those without it, and what to write at which height."""
    values = [trial.params.get(key) for trial in drawn.completed]
    given = [value for value in values if value is not None]
    if _is_numeric(given):
        return _scale_to_axis([math.nan if value is None else value for value in values], is_log=key in drawn.log_keys)
    order = sorted({str(value) for value in given})
    heights = {text: (at + 0.5) / len(order) for at, text in enumerate(order)}
    return [heights.get(str(value), math.nan) for value in values], [(height, text) for text, height in heights.items()]


def _scale_to_axis(values: Sequence[float], *, is_log: bool) -> tuple[list[float], list[tuple[float, str]]]:
    low, high = (pick(value for value in values if not math.isnan(value)) for pick in (min, max))
    bend = math.log if is_log and low > 0 else float
    span = bend(high) - bend(low) or 1.0
    ticks = [
        ((bend(value) - bend(low)) / span, text) for value, text in zip(*_axis_ticks(low, high, is_log), strict=True)
    ]
    return [(bend(value) - bend(low)) / span for value in values], ticks


def _axis_ticks(low: float, high: float, is_log: bool) -> tuple[list[float], list[str]]:
    """Both ends and the middle."""
    middle = math.sqrt(low * high) if is_log and low > 0 else (low + high) / 2
    values = list(dict.fromkeys((low, middle, high)))
    return values, [f"{value:.3g}" for value in values]
