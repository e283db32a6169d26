"""Figures of held-out fields beside their predictions."""

from pathlib import Path
from typing import Any

from torch import Tensor

from harness.data.operator_data import FieldPairs
from harness.plotting import make_figure, save_figure
from harness.training.operator_losses import relative_l2

MAX_SAMPLES = 3  # in a figure


def plot_field_samples(fields: FieldPairs, predicted: Tensor, path: Path) -> None:
    """Plot the first channel of each sample in a row; truth and prediction share their colour scale."""
    figure = make_figure(10, 2.4 * len(fields), layout="constrained")
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
            image = axes.imshow(field, origin="lower", aspect="auto", **limits)
            figure.colorbar(image, ax=axes)
            axes.set(title=name if index == 0 else "", xticks=[], yticks=[])
        row[2].set_xlabel(f"relative L2 {errors[index]:.3g}")
    save_figure(figure, path)
