"""A run as its curves tell it, whoever recorded it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

LOSS_METRICS = ("train/loss", "val/loss")


class Series(NamedTuple):
    """The values of one metric, float64, at int64 `steps` in rising order; none is NaN, some may be infinite."""

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run beside its curves; None where it is not."""

    name: str = ""
    status: str | None = None
    total_steps: int | None = None
    log_every: int = 1
    batch_size: int | None = None
    tokens_per_step: float | None = None
    steps_per_epoch: float | None = None
    optimizer: str | None = None
    """Of torch, such as AdamW or SGD."""
    peak_lr: float | None = None
    grad_clip: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    """Cosine, Plateau and so on, by the names of harness.training.schedules."""
    watches: str | None = None
    """The loss that a plateau schedule watches: val/loss or train/loss."""
    patience: int | None = None
    """Evaluations without a better one that it waits for."""
    warmup_asked: float | None = None
    """Steps, not rounded; `warmup_steps` are those in force."""
    warmup_steps: int | None = None
    lora_rank: int | None = None
    unit: str | None = None
    """Of val/loss."""
    uniform: float | None = None
    """What a guess without knowledge scores: ln(vocabulary), or 1 for a relative error."""
    unigram: float | None = None
    """What the best guess that ignores the input scores: the unigram entropy, or the mean predictor."""
    lr_band: tuple[float, float] | None = None
    """Of a range test of this experiment: where the loss falls well."""
    val_fraction: float | None = None
    """Of the data, held out for evaluation; None where no such share is set."""
    expect: tuple[str, ...] = ()
    """Forecasts that were written down before it."""
    source: str = ""


class SpikeRecord(NamedTuple):
    """A spike that was seen while training, with the examples (from, to) that fed it."""

    step: int
    began_at: int
    loss: float
    usual: float
    examples: tuple[int, int] | None
    back_to: int | None


@dataclass
class History:
    """Curves by our metric names (`train/loss`, `train/lr`, `train/grad_norm`, `train/clip_fraction`, `train/tokens`,
    `val/loss`, `val/loss_se`, `val/coverage`, `perf/tokens_per_second`, `grad_norm/LAYERS`), grown row by row."""

    facts: RunFacts = field(default_factory=RunFacts)
    spikes: list[SpikeRecord] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    """Steps at which the state was written down."""
    _points: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    _arrays: dict[str, Series] = field(default_factory=dict)

    def add_row(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row; steps may come back after a rollback, and then what was there behind them goes. A loss that is no
        number is infinite, any other such value is left out."""
        for name, value in metrics.items():
            if value != value and name in LOSS_METRICS:
                value = math.inf
            if value == value:
                steps, values = self._points.setdefault(name, ([], []))
                while steps and steps[-1] >= step:
                    steps.pop(), values.pop()
                steps.append(step), values.append(float(value))
                self._arrays.pop(name, None)

    def __getitem__(self, name: str) -> Series:
        """Empty where the metric was never recorded."""
        if name not in self._arrays:
            steps, values = self._points.get(name, ([], []))
            self._arrays[name] = Series(np.array(steps, np.int64), np.array(values, np.float64))
        return self._arrays[name]

    def metric_names(self, prefix: str = "") -> list[str]:
        return [name for name in self._points if name.startswith(prefix)]

    @property
    def last_step(self) -> int:
        return max((steps[-1] for steps, _ in self._points.values() if steps), default=0)

    def tokens_at(self, steps: np.ndarray) -> np.ndarray | None:
        """Trained on by these steps; None where nothing tells."""
        known = self["train/tokens"]
        if len(known) > 1:
            return np.interp(steps, np.r_[0, known.steps], np.r_[0.0, known.values])
        per_step = self.facts.tokens_per_step
        return None if per_step is None else np.asarray(steps) * per_step
