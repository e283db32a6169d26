"""The contract between a task and the loop: what is trained, on what, and how it is scored."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # torch takes seconds to import, and those who only read facts compute nothing
    from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """A loss summed over `count` scored elements (tokens, fields); `sum` carries the graph."""

    sum: "Tensor"
    count: int


@dataclass(frozen=True)
class Mean:
    """A mean that adds up over batches and processes; `sum_sq` where the elements' spread is known."""

    sum: float
    count: float
    unit: str
    sum_sq: float | None = None

    def __add__(self, other: "Mean") -> "Mean":
        if self.unit != other.unit:
            raise ValueError(f"cannot add a mean in {other.unit} to one in {self.unit}")
        spread_is_known = self.sum_sq is not None and other.sum_sq is not None
        sum_sq = self.sum_sq + other.sum_sq if spread_is_known else None
        return Mean(self.sum + other.sum, self.count + other.count, self.unit, sum_sq)

    @property
    def value(self) -> float:
        return self.sum / self.count if self.count else math.nan

    @property
    def standard_error(self) -> float | None:
        """Of the mean, elements taken as independent; None where their spread is unknown."""
        if self.sum_sq is None or self.count < 2:
            return None
        variance = max(0.0, self.sum_sq / self.count - self.value**2)
        return math.sqrt(variance / (self.count - 1))


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation, with what a reader needs to compare it."""

    value: float
    unit: str
    standard_error: float | None = None


class Task(Protocol):
    """A model, its data and its loss. A batch is whatever the task makes of it: the loop only passes it back."""

    model: "nn.Module"
    constants: Mapping[str, float]
    """What a reader judges the metrics by, such as ln(vocabulary); recorded once."""
    dataset: Mapping[str, str]
    """name, digest and source of the data."""
    examples: int
    """In an epoch."""
    files: Mapping[str, Path]
    """What the weights are of no use without, such as a tokenizer's folder, by name; kept beside them."""
    tokens_per_example: float
    """The mean of what an example spends of the token budget."""

    def get_batch(self, position: int, size: int) -> Any:
        """The step batch of `size` examples that starts at example `position` of an endless, seeded order."""

    def split_batch(self, batch: Any, size: int) -> list[Any]:
        """`batch` cut into pieces of at most `size` examples, in order."""

    def count_scored(self, batch: Any) -> int:
        """How many elements of `batch` the loss scores; known before the forward pass."""

    def count_tokens(self, batch: Any) -> int:
        """How much of the token budget `batch` spends (fields, where there are no tokens)."""

    def compute_loss(self, batch: Any) -> Loss: ...

    def validation_batches(self) -> Iterator[Any]:
        """The held-out set, whole, in a fixed order, independent of the training batch."""

    def score_batch(self, batch: Any) -> dict[str, Mean]:
        """One validation batch's means, float64 sums."""

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        """The metrics of a whole evaluation; `loss` is the objective."""
