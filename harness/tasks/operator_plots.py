"""Held-out fields, side by side with what the model makes of them."""

from pathlib import Path
from typing import Any

from torch import Tensor

from harness.data.operator_data import FieldPairs
from harness.plotting import make_figure, save_figure
from harness.training.operator_losses import relative_l2

MAX_SAMPLES = 3
"""Samples in a picture."""
COLUMNS = ("input", "truth", "prediction", "|error|")


def plot_field_samples(fields: FieldPairs, predicted: Tensor, path: Path) -> None:
    """The first channel of the samples, a row each; truth and prediction share their colours."""
    figure = make_figure(10, 2.4 * len(fields), layout="constrained")
    errors = relative_l2(predicted, fields.y).tolist()
    for index, row in enumerate(figure.subplots(len(fields), len(COLUMNS), squeeze=False)):
        x, y, guess = (each[index, 0].numpy() for each in (fields.x, fields.y, predicted))
        limits = {"vmin": y.min(), "vmax": y.max()}
        shown: tuple[tuple[Any, dict[str, float]], ...]
        shown = ((x, {}), (y, limits), (guess, limits), (abs(guess - y), {"vmin": 0}))
        for axes, name, (field, given) in zip(row, COLUMNS, shown, strict=True):
            _plot_panel(axes, field, given, name if index == 0 else "")
        row[2].set_xlabel(f"relative L2 {errors[index]:.3g}")
    save_figure(figure, path)


def _plot_panel(axes: Any, field: Any, limits: dict[str, float], title: str) -> None:
    picture = axes.imshow(field, origin="lower", aspect="auto", **limits)
    axes.figure.colorbar(picture, ax=axes)
    axes.set(title=title, xticks=[], yticks=[])
