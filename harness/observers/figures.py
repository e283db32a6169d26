"""Figures of a run, drawn when it ends."""

import math
import sys
from collections import defaultdict
from pathlib import Path

from harness.core.events import Event, Observer, RunEnd, RunStart
from harness.plotting import BLUE, ORANGE, add_legend, make_axes, mark_best, save_figure, use_log_scale
from harness.record.metric_rows import MetricAggregator
from harness.record.past_record import read_past_rows


class FigureWriter(Observer):
    """Draw loss, LR and gradient norm into the folder `figures` of the run."""

    def __init__(self) -> None:
        self._aggregate = MetricAggregator()
        self._steps: defaultdict[str, list[int]] = defaultdict(list)
        self._values: defaultdict[str, list[float]] = defaultdict(list)
        self._unit = ""

    def __call__(self, event: Event) -> None:
        latest = self._aggregate(event)
        past = read_past_rows(event.past) if isinstance(event, RunStart) else ()
        for row in filter(None, (*past, latest)):
            self._unit = row.units.get("val/loss", self._unit)
            for name, value in row.metrics.items():
                self._steps[name].append(row.step)
                self._values[name].append(value if math.isfinite(value) else math.nan)
        match event:
            case RunStart():
                self._start, self._folder = event, event.folder / "figures"
            case RunEnd() if event.status != "paused":
                try:
                    self._draw_figures()
                except Exception as error:  # a figure must not fail a run
                    print(f"warning: figures not drawn: {error}", file=sys.stderr)

    def _draw_figures(self) -> None:
        if self._steps["train/loss"]:
            self._draw_loss(self._folder / "loss.png")
        if self._steps["train/lr"]:
            self._draw_lr(self._folder / "lr.png")
        if self._steps["train/grad_norm"]:
            self._draw_grad_norm(self._folder / "grad_norm.png")

    def _draw_loss(self, path: Path) -> None:
        axes = make_axes("Loss", self._start.name, "step", f"loss ({self._unit})" if self._unit else "loss")
        axes.plot(*self._curve("train/loss"), color=BLUE, linewidth=1.2, alpha=0.8, label="train")
        steps, losses = self._curve("val/loss")
        if steps:
            axes.plot(steps, losses, color=ORANGE, linewidth=1.8, marker="o", markersize=4, label="validation")
            best = min(range(len(losses)), key=lambda i: math.inf if math.isnan(losses[i]) else losses[i])
            mark_best(axes, steps[best], losses[best], f"best {losses[best]:.4g} at step {steps[best]}")
        add_legend(axes)
        save_figure(axes.figure, path)

    def _draw_lr(self, path: Path) -> None:
        axes = make_axes("Learning rate", self._start.name, "step", "learning rate")
        axes.plot(*self._curve("train/lr"), color=BLUE, linewidth=1.8)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:.3g}")
        save_figure(axes.figure, path)

    def _draw_grad_norm(self, path: Path) -> None:
        axes = make_axes("Gradient norm before clipping", self._start.name, "step", "L2 norm, mean of log_every steps")
        steps, norms = self._curve("train/grad_norm")
        axes.plot(steps, norms, color=BLUE, linewidth=1.2, label="gradient norm")
        clip = self._start.effective.grad_clip
        if math.isfinite(clip):
            axes.axhline(clip, color=ORANGE, linewidth=1.5, linestyle="--", label=f"clipped above {clip:g}")
        if max(norms) > 30 * min(norms) > 0:
            use_log_scale(axes, "y")
        add_legend(axes)
        save_figure(axes.figure, path)

    def _curve(self, metric: str) -> tuple[list[int], list[float]]:
        return self._steps[metric], self._values[metric]
