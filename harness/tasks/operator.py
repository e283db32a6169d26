"""Learning the operator that makes one field of another, such as a pressure of a permeability."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.core.task import Loss, Mean, Metric
from harness.data.operator_data import FieldData, FieldPairs
from harness.data.tokens import get_example_indices
from harness.models.fno import NormalizedOperator
from harness.tasks import operator_plots
from harness.training.operator_losses import relative_h1, relative_l2

LOSSES = {"l2": relative_l2, "h1": relative_h1}
METRIC_UNITS = {"loss": "relative L2 of physical fields", "h1": "relative H1 of physical fields"}


def build_operator_task(
    *,
    model: Callable[..., NormalizedOperator],
    data: Callable[..., FieldData],
    loss: Literal["l2", "h1"],
    seed: int,
    cache_dir: Path,
) -> "OperatorTask":
    """Fields from fields, trained on the relative `loss` of normalised ones; ValueError where it is neither."""
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r} is neither l2 nor h1")
    fields = data(seed=seed, cache_dir=cache_dir)
    y = fields.train.y
    if (y == y[:1, :, :1, :1]).all():
        raise ValueError("the training fields y are the same everywhere: there is nothing to learn; use other data")
    return OperatorTask(model(x=fields.train.x, y=fields.train.y), fields, LOSSES[loss])


@dataclass
class OperatorTask:
    """A batch is a set of samples. The objective is the relative L2 on physical fields of the first held-out set; every
    other one has figures of its own, named after its grid."""

    model: NormalizedOperator
    data: FieldData
    criterion: Callable[[Tensor, Tensor], Tensor]
    files: ClassVar[Mapping[str, Path]] = {}
    tokens_per_example: ClassVar[float] = 1.0

    @property
    def constants(self) -> Mapping[str, float]:
        """The relative L2 on the validation set of a field of zeros, and of the mean of the training fields,
        where both are on one grid."""
        truth, mean = self.data.held_out[0].y, self.data.train.y.mean(0, keepdim=True)
        if mean.shape[2:] != truth.shape[2:]:
            return {"zero_predictor": 1.0}
        return {"zero_predictor": 1.0, "mean_predictor": relative_l2(mean, truth).mean().item()}

    @property
    def dataset(self) -> Mapping[str, str]:
        return {"name": self.data.name, "digest": self.data.digest, "source": self.data.source}

    @property
    def examples(self) -> int:
        return len(self.data.train)

    def get_batch(self, position: int, size: int) -> FieldPairs:
        return self.data.train[get_example_indices(position, size, self.examples, self.data.seed, self.data.shuffle)]

    def split_batch(self, batch: FieldPairs, size: int) -> list[FieldPairs]:
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def count_scored(self, batch: FieldPairs) -> int:
        return len(batch)

    def count_tokens(self, batch: FieldPairs) -> int:
        return len(batch)

    def compute_loss(self, batch: FieldPairs) -> Loss:
        """The relative error of normalised fields, summed over the samples."""
        batch = batch.to(self._device)
        predicted, true = self.model.normalize_targets(self.model(batch.x)), self.model.normalize_targets(batch.y)
        return Loss(self.criterion(predicted, true).sum(), len(batch))

    def validation_batches(self) -> Iterator[FieldPairs]:
        for fields in self.data.held_out:
            yield from self.split_batch(fields, self.data.eval_batch_size)

    def score_batch(self, batch: FieldPairs) -> dict[str, Mean]:
        batch = batch.to(self._device)
        predicted = self.model(batch.x)
        suffix = "" if batch.grid == self.data.held_out[0].grid else f"_{batch.grid}"
        errors = {"loss": relative_l2(predicted, batch.y), "h1": relative_h1(predicted, batch.y)}
        return {f"{name}{suffix}": _to_mean(values, METRIC_UNITS[name]) for name, values in errors.items()}

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        return {name: Metric(mean.value, mean.unit, mean.standard_error) for name, mean in means.items()}

    @torch.no_grad()
    def save_figures(self, folder: Path) -> None:
        """A picture for each held-out set, fields_GRID.png in `folder`: inputs, truths, predictions and errors."""
        for fields in self.data.held_out:
            shown = fields[: operator_plots.MAX_SAMPLES]
            predicted = self.model(shown.x.to(self._device)).cpu()
            operator_plots.plot_field_samples(shown, predicted, folder / f"fields_{fields.grid}.png")

    @property
    def _device(self) -> torch.device:
        return self.model.x_mean.device


def _to_mean(errors: Tensor, unit: str) -> Mean:
    errors = errors.cpu().double()  # mps has no float64
    return Mean(errors.sum().item(), len(errors), unit, errors.square().sum().item())
