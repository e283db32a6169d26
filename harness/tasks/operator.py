"""Operator learning: predict one field from another, such as pressure from permeability."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from harness.core.digests import compute_array_digest
from harness.core.task import Loss, Mean, Metric
from harness.data.operator_data import FieldData, FieldPairs, describe_shape
from harness.data.tokens import get_example_indices
from harness.models.fno import NormalizedOperator
from harness.tasks.metrics import mean_of_values, to_metrics
from harness.tasks.operator_plots import MAX_SAMPLES, plot_field_samples
from harness.training.operator_losses import relative_h1, relative_l2

LOSSES = {"l2": relative_l2, "h1": relative_h1}


class OperatorBuilder(Protocol):
    def __call__(self, *, x: Tensor, y: Tensor) -> NormalizedOperator: ...


class FieldDataBuilder(Protocol):
    def __call__(self, *, seed: int, cache_dir: Path) -> FieldData: ...


def build_operator_task(
    *,
    model: OperatorBuilder,
    data: FieldDataBuilder,
    loss: Literal["l2", "h1"],
    seed: int,
    cache_dir: Path,
) -> "OperatorTask":
    """Build the task of predicting y from x, trained on the relative `loss` of normalized fields.

    Raises:
        ValueError: If there is no such loss, or if the training fields y are constant.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r} must be l2 or h1")
    fields = data(seed=seed, cache_dir=cache_dir)
    y = fields.train.y
    values = y.flatten(2)
    if (values == values[:1, :, :1]).all():
        raise ValueError("the training fields y are the same everywhere: there is nothing to learn; use other data")
    return OperatorTask(model(x=fields.train.x, y=y), fields, LOSSES[loss])


@dataclass
class OperatorTask:
    """Predict fields from fields; an example is a sample.

    The objective is the relative L2 error of physical fields on the first held-out set. Metrics of the other held-out
    sets end in their grid size, such as `loss_32`.
    """

    model: NormalizedOperator
    data: FieldData
    criterion: Callable[[Tensor, Tensor], Tensor]
    files: ClassVar[Mapping[str, Path]] = {}
    tokens_per_example: ClassVar[float] = 1.0

    @property
    def constants(self) -> Mapping[str, float]:
        """Relative L2 on the validation set of all zeros and, if the grids are equal, of the mean training field."""
        truth, mean = self.data.held_out[0].y, self.data.train.y.mean(0, keepdim=True)
        if mean.shape[2:] != truth.shape[2:]:
            return {"zero_predictor": 1.0}
        return {"zero_predictor": 1.0, "mean_predictor": relative_l2(mean, truth).mean().item()}

    @cached_property
    def dataset(self) -> Mapping[str, str]:
        data, held_out = self.data, self.data.held_out[0]
        validation = compute_array_digest(held_out.x.numpy(), held_out.y.numpy())
        splits = {f"digest.{name}": digest for name, digest in data.split_digests.items()}
        about = {"name": data.name, "digest": data.digest, "source": data.source, "shape": self._describe_samples()}
        return {**about, "validation": validation, **splits}

    @property
    def examples(self) -> int:
        return len(self.data.train)

    def get_batch(self, position: int, size: int) -> FieldPairs:
        data = self.data
        return data.train[get_example_indices(position, size, self.examples, data.seed, data.shuffle)]

    def split_batch(self, batch: FieldPairs, size: int) -> list[FieldPairs]:
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def count_scored(self, batch: FieldPairs) -> int:
        return len(batch)

    def count_tokens(self, batch: FieldPairs) -> int:
        return len(batch)

    def compute_loss(self, batch: FieldPairs) -> Loss:
        """Return the relative error of normalized fields, summed over the samples."""
        batch = batch.to(self._device)
        predicted, true = self.model.normalize_targets(self.model(batch.x)), self.model.normalize_targets(batch.y)
        return Loss(self.criterion(predicted, true).sum(), len(batch))

    def validation_batches(self) -> Iterator[FieldPairs]:
        for fields in self.data.held_out:
            yield from self.split_batch(fields, self.data.eval_batch_size)

    def score_batch(self, batch: FieldPairs) -> dict[str, Mean]:
        batch = batch.to(self._device)
        predicted = self.model(batch.x)
        ones = np.ones(len(batch), int)
        suffix = "" if batch.grid == self.data.held_out[0].grid else f"_{batch.grid}"
        return {
            f"loss{suffix}": mean_of_values(relative_l2(predicted, batch.y), "relative L2 of physical fields", ones),
            f"h1{suffix}": mean_of_values(relative_h1(predicted, batch.y), "relative H1 of physical fields"),
        }

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        return to_metrics(means)

    def make_test_task(self) -> "OperatorTask | None":
        """Return the task with the test sets in place of the held-out ones, or None if there are none."""
        data = self.data.with_test_evaluated()
        return None if data is None else replace(self, data=data)

    @torch.no_grad()
    def save_figures(self, folder: Path) -> None:
        """Write a figure for each held-out set: inputs, truths, predictions and errors of its first samples."""
        for fields in self.data.held_out:
            shown = fields[:MAX_SAMPLES]
            predicted = self.model(shown.x.to(self._device)).cpu()
            plot_field_samples(shown, predicted, folder / f"fields_{fields.grid}.png")

    def _describe_samples(self) -> str:
        """Return what was read, for a user to compare with what they meant."""
        data = self.data
        held_out = " and ".join(f"{len(fields):,} on {fields.grid}" for fields in data.held_out)
        return f"{len(data.train):,} samples, validation {held_out} · {describe_shape(data.train)}"

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
