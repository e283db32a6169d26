"""Statements of a user about a training: requested settings, result of an evaluation, data to look through."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RequestedSettings:
    """Settings as the user gave them, to compare with those in effect."""

    lr: float | Mapping[str, float] | None = None
    """Peak LR, of all parameter groups or by the name of the group."""
    warmup_steps: float | None = None
    """Not rounded: a share of the run times its length."""
    total_steps: int | None = None
    completed_steps: int = 0
    """Steps of the total that were taken before, in a resumed run."""
    batch_size: int | None = None
    """Examples per step over all devices."""
    evals: int | None = None
    """Number of evaluations."""
    weight_decay: Mapping[str, float] | None = None
    """By the name of the parameter group."""
    lr_multiplier: Callable[[int], float] | None = None
    """Ratio of the LR to its peak, as a function of the number of completed steps."""
    patience: int | None = None
    """Evaluations without improvement before the schedule acts, if it is not torch's ReduceLROnPlateau."""
    parameters: int | None = None
    """Number of parameters that the model should have, such as 124e6."""
    n_runs: int = 1
    """Runs of the sweep."""
    n_parallel: int = 1
    """Runs at a time."""


@dataclass(frozen=True)
class EvalResult:
    """A validation loss: the mean over `count` elements, if known, with its unit, such as nats/token."""

    loss: float
    count: int | None = None
    unit: str = ""
    averages_batches: bool = False
    """True if the loss is known to be a mean of batch means, which depends on the batch size."""


@dataclass(frozen=True)
class TrainingData:
    """Data to look through. Examples must be hashable: texts, tuples of token ids, bytes."""

    train: Iterable[Hashable] | None = None
    val: Iterable[Hashable] | None = None
    documents: Iterable[str] | None = None
    """Texts of the data source, of all splits."""
    token_stream: np.ndarray | None = None
    """Training text as token ids, one-dimensional."""
    unknown_token_id: int | None = None
    tokenizer_saw_validation: bool | None = None
