"""The contract between a task and the training loop: model, data, loss and metrics."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:  # importing torch takes a second, and readers of records do not need it
    import numpy as np
    from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """A loss summed over `count` scored elements (tokens, fields). `sum` carries the autograd graph."""

    sum: "Tensor"
    count: int


class ExampleSums(NamedTuple):
    """Sums of a loss over the scored elements of each example of a batch, and the numbers of these elements."""

    sums: "np.ndarray"
    counts: "np.ndarray"
    batch: int = 0  # number of the batch in the validation set, which the loop sets


@dataclass(frozen=True)
class Mean:
    """A mean that can be added over batches and processes. `sum_sq` is None if the spread is unknown.

    `examples` are the parts of it by example, for `record_examples`; a task need not give them.
    """

    sum: float
    count: float
    unit: str
    sum_sq: float | None = None
    examples: tuple[ExampleSums, ...] = field(default=(), compare=False, repr=False)

    def __add__(self, other: "Mean") -> "Mean":
        if self.unit != other.unit:
            raise ValueError(f"cannot add a mean in {other.unit} to one in {self.unit}")
        sum_sq = None if self.sum_sq is None or other.sum_sq is None else self.sum_sq + other.sum_sq
        examples = self.examples + other.examples
        return Mean(self.sum + other.sum, self.count + other.count, self.unit, sum_sq, examples)

    @property
    def value(self) -> float:
        """The mean; nan if there are no elements."""
        return self.sum / self.count if self.count else math.nan

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean, assuming independent elements; None if the spread is unknown."""
        if self.sum_sq is None or self.count < 2:
            return None
        variance = max(0.0, self.sum_sq / self.count - self.value**2)
        return math.sqrt(variance / (self.count - 1))


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation with its unit and, if known, its standard error."""

    value: float
    unit: str
    standard_error: float | None = None


class Task(Protocol):
    """A model, its data and its loss. Only the task looks inside a batch; the loop passes it back.

    A task whose data has a test split also has `make_test_task()`: a task with the same model whose validation set is
    the test split, or None without one. `score_test=true` scores that one.
    """

    model: "nn.Module"
    constants: Mapping[str, float]  # reference values for the metrics, such as ln(vocabulary); recorded once
    dataset: Mapping[str, str]  # name, digest and source of the data, and the digest.SPLIT of each split
    examples: int  # per epoch
    files: Mapping[str, Path]  # needed to use the weights, such as a tokenizer's folder; kept beside them
    tokens_per_example: float  # mean number of tokens that an example takes from the token budget

    def get_batch(self, position: int, size: int) -> Any:
        """Return the `size` examples that start at example `position` of an endless, seeded order."""

    def split_batch(self, batch: Any, size: int) -> list[Any]:
        """Split `batch` into pieces of at most `size` examples, in order."""

    def count_scored(self, batch: Any) -> int:
        """Return the number of elements of `batch` that the loss scores, without a forward pass."""

    def count_tokens(self, batch: Any) -> int:
        """Return the number of tokens that `batch` takes from the budget (fields, if there are no tokens)."""

    def compute_loss(self, batch: Any) -> Loss: ...

    def validation_batches(self) -> Iterator[Any]:
        """Yield the whole validation set in a fixed order, independent of the training batch size."""

    def score_batch(self, batch: Any) -> dict[str, Mean]:
        """Return the sums over one validation batch, in float64."""

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        """Return the metrics of a whole evaluation. `loss` is the objective."""
