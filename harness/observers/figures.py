"""Figures of a run, drawn from metrics.jsonl when it ends."""

import math
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.effective_settings import EffectiveSettings
from harness.core.events import Event, Observer, RunEnd, RunStart
from harness.plotting import BLUE, ORANGE, make_axes, mark_best, save_figure
from harness.record import metrics_file


class FigureWriter(Observer):
    """Draws loss, LR and gradient norm into the folder `figures` of the run; must come after MetricsWriter."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart):
            self._folder = event.folder
        if isinstance(event, RunEnd):
            try:
                draw_run_figures(self._folder)
            except Exception as error:  # a figure must not fail a run
                print(f"warning: figures not drawn: {error}", file=sys.stderr)


@dataclass
class Curves:
    """The (step, value) points of each metric in metrics.jsonl, NaN for infinite values."""

    name: str = ""
    grad_clip: float = math.inf
    units: dict[str, str] = field(default_factory=dict)
    points: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def load(cls, path: Path) -> "Curves":
        """Read the file at `path`."""
        curves = cls()
        for entry, _ in metrics_file.read_entries(path):
            if entry["kind"] == "start":
                curves.name = entry["name"]
                curves.grad_clip = EffectiveSettings.from_json(entry["effective"]).grad_clip
            curves.units |= entry.get("units", {})
            for metric, value in entry.get("metrics", {}).items():
                curves.points[metric].append((entry["step"], value if math.isfinite(value) else math.nan))
        return curves


def draw_run_figures(folder: Path) -> list[Path]:
    """Draw the figures of the run in `folder` that have points and return their paths."""
    curves = Curves.load(folder / metrics_file.METRICS_FILE)
    drawn = []
    for metric, draw in (("train/loss", _draw_loss), ("train/lr", _draw_lr), ("train/grad_norm", _draw_grad_norm)):
        if curves.points[metric]:
            drawn.append(folder / "figures" / f"{metric.partition('/')[2]}.png")
            draw(curves, drawn[-1])
    return drawn


def _draw_loss(curves: Curves, path: Path) -> None:
    unit = curves.units.get("val/loss")
    axes = make_axes("Loss", curves.name, "step", f"loss ({unit})" if unit else "loss")
    axes.plot(*_columns(curves, "train/loss"), color=BLUE, linewidth=1.2, alpha=0.8, label="train")
    if curves.points["val/loss"]:
        steps, losses = _columns(curves, "val/loss")
        axes.plot(steps, losses, color=ORANGE, linewidth=1.8, marker="o", markersize=4, label="validation")
        best = min(range(len(losses)), key=lambda i: math.inf if math.isnan(losses[i]) else losses[i])
        label = f"best {losses[best]:.4g} at step {steps[best]}"
        mark_best(axes, steps[best], losses[best], label)
    axes.legend(frameon=False)
    save_figure(axes.figure, path)


def _draw_lr(curves: Curves, path: Path) -> None:
    axes = make_axes("Learning rate", curves.name, "step", "learning rate")
    axes.plot(*_columns(curves, "train/lr"), color=BLUE, linewidth=1.8)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:.3g}")
    save_figure(axes.figure, path)


def _draw_grad_norm(curves: Curves, path: Path) -> None:
    axes = make_axes("Gradient norm before clipping", curves.name, "step", "L2 norm (mean of a window)")
    steps, norms = _columns(curves, "train/grad_norm")
    axes.plot(steps, norms, color=BLUE, linewidth=1.2, label="gradient norm")
    if math.isfinite(curves.grad_clip):
        label = f"clipped above {curves.grad_clip:g}"
        axes.axhline(curves.grad_clip, color=ORANGE, linewidth=1.5, linestyle="--", label=label)
    axes.set_yscale("log" if max(norms) > 30 * min(norms) > 0 else "linear")
    axes.legend(frameon=False)
    save_figure(axes.figure, path)


def _columns(curves: Curves, metric: str) -> tuple[list[int], list[float]]:
    steps, values = zip(*curves.points[metric], strict=True)
    return list(steps), list(values)
