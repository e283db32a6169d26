"""Style and helpers shared by all figures; without pyplot, whose state is global."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.files import open_atomically

if TYPE_CHECKING:  # importing matplotlib takes a while, and most commands draw nothing
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#3b6fb6", "#e07b39", "#2e8b57", "#c0392b", "#6b7280"
SERIES_COLORS = (BLUE, ORANGE, GREEN, "#8b5cf6", "#0e9aa7", "#b45309")
DPI = 120


def make_figure(width: float = 7, height: float = 4.2, **options: Any) -> "Figure":
    """Return an empty figure of this size in inches, with matplotlib's further `options`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def make_axes(title: str, subtitle: str, x_label: str, y_label: str) -> Any:
    """Return the axes of a new figure with one panel."""
    axes = make_figure().add_axes((0.14, 0.13, 0.83, 0.72))
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=22)
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, color=GREY, fontsize=9)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    style_axes(axes)
    return axes


def style_axes(axes: Any) -> None:
    """Draw a light grid behind the points and remove the upper and right border."""
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def mark_best(axes: Any, x: float, y: float, label: str | None = None) -> None:
    """Draw a star at the best point."""
    axes.plot(x, y, "*", color=GREEN, markersize=15, linestyle="none", label=label)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write `figure` to `path` as a PNG; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight")
