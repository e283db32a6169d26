"""Style and helpers shared by all figures; without pyplot, whose state is global."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.core.files import open_atomically

if TYPE_CHECKING:  # importing matplotlib takes a while, and most commands draw nothing
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#3b6fb6", "#e07b39", "#2e8b57", "#c0392b", "#6b7280"
FEW_DECADES = 2  # on an axis, between which numbers are labeled too
SERIES_COLORS = (BLUE, ORANGE, GREEN, "#8b5cf6", "#0e9aa7", "#b45309")
WIDTH_PIXELS = 1600
"""Width of every figure, for slides."""
PADDING = 0.1  # inches around a figure
LABEL_SIZE, TICK_SIZE, LEGEND_SIZE = 12, 11, 10.5  # points in a figure of 7 inches


def make_figure(width: float = 7, height: float = 4.2, **options: Any) -> "Figure":
    """Return an empty figure of this size in inches, with matplotlib's further `options`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def make_axes(title: str, subtitle: str, x_label: str, y_label: str) -> Any:
    """Return the axes of a new figure with one panel."""
    axes = make_figure().add_axes((0.14, 0.13, 0.83, 0.72))
    axes.set_title(title, loc="left", fontsize=15, fontweight="bold", pad=24)
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, color=GREY, fontsize=LEGEND_SIZE)
    axes.set_xlabel(x_label, fontsize=LABEL_SIZE)
    axes.set_ylabel(y_label, fontsize=LABEL_SIZE)
    style_axes(axes)
    return axes


def style_axes(axes: Any) -> None:
    """Draw a light grid behind the points and remove the upper and right border."""
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=TICK_SIZE)
    axes.spines[["top", "right"]].set_visible(False)


def use_log_scale(axes: Any, side: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers as labels: each decade, and steps of 1, 2, 5 within few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{side}scale")("log")
    low, high = getattr(axes, f"get_{side}lim")()
    axis = getattr(axes, f"{side}axis")
    n_decades = math.floor(math.log10(high)) - math.ceil(math.log10(low)) + 1
    subs = (1.0,) if n_decades > FEW_DECADES else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def add_legend(axes: Any) -> None:
    """Add the legend of the labeled series."""
    axes.legend(frameon=False, fontsize=LEGEND_SIZE)


def mark_best(axes: Any, x: float, y: float, label: str | None = None) -> None:
    """Draw a star at the best point."""
    axes.plot(x, y, "*", color=GREEN, markersize=15, linestyle="none", label=label)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write `figure` to `path` as a PNG of WIDTH_PIXELS; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        figure.draw_without_rendering()  # so that a layout is applied
        box = figure.get_tightbbox().padded(PADDING)
        figure.savefig(file, format="png", dpi=WIDTH_PIXELS / box.width, bbox_inches=box)
