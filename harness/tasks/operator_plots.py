"""Figures of held-out fields beside their predictions."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from harness.data.operator_data import FieldPairs
from harness.plotting import make_figure, save_figure
from harness.training.operator_losses import relative_l2

MAX_SAMPLES = 3  # in a figure


def plot_field_samples(fields: FieldPairs, predicted: Tensor, path: Path) -> None:
    """Plot the first channel of each sample in a row; truth and prediction share their scale."""
    figure = make_figure(8, 2.0 * len(fields), layout="constrained")
    errors = relative_l2(predicted, fields.y).tolist()
    for index, row in enumerate(figure.subplots(len(fields), 4, squeeze=False)):
        x, y, guess = (each[index, 0].numpy() for each in (fields.x, fields.y, predicted))
        scale = {"vmin": y.min(), "vmax": y.max()}
        panels: dict[str, tuple[Any, dict[str, float]]] = {
            "input": (x, {}),
            "truth": (y, scale),
            "prediction": (guess, scale),
            "|error|": (abs(guess - y), {"vmin": 0}),
        }
        for axes, (name, (field, limits)) in zip(row, panels.items(), strict=True):
            _draw_field(axes, field, limits)
            axes.set(title=name if index == 0 else "", xticks=[], yticks=[])
        row[2].set_xlabel(f"relative L2 {errors[index]:.3g}")
    save_figure(figure, path)


def _draw_field(axes: Any, field: np.ndarray, limits: dict[str, float]) -> None:
    """Draw a field as a line or an image; of a three-dimensional one, the slice in its middle."""
    if field.ndim == 1:
        axes.plot(field)
        axes.set_ylim(limits.get("vmin"), limits.get("vmax"))
        return
    image = axes.imshow(field[len(field) // 2] if field.ndim > 2 else field, origin="lower", aspect="auto", **limits)
    axes.figure.colorbar(image, ax=axes)
