"""The curves of a run, and what else is known of it, from any source."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

LOSS_METRICS = ("train/loss", "val/loss")
SECONDS = "time/seconds"  # since the start of the run
NEVER_NAN = (*LOSS_METRICS, "train/grad_norm")  # a NaN of these is a finding

Evidence = dict[str, float | str]  # the numbers that a diagnosis rests on


class Series(NamedTuple):
    """One metric: float64 `values` at increasing int64 `steps`. Never NaN, possibly infinite."""

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)


class DataIdentity(NamedTuple):
    """The data that a validation loss was measured on; None where unknown."""

    name: str  # kind of data, such as TextFiles
    digest: str  # of training and validation data, split and tokenizer
    validation: str | None = None  # digest of the validation data as the model reads it
    size: str | None = None  # of the validation data, the same under any tokenizer
    tokenizer: str | None = None  # digest; empty for data without tokens
    vocabulary: int | None = None  # number of tokens


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run besides its curves; None where unknown.

    If `steps_unit` is epochs, the log has no steps: `steps_per_epoch` steps of the history stand for an epoch (1, or
    100 and more for fractions of epochs). If it is rows, the log has neither, and its
    rows are counted.
    """

    name: str = ""
    program: str | None = None  # that wrote the log: harness, transformers or lightning
    steps_unit: Literal["steps", "epochs", "rows"] = "steps"
    status: str | None = None
    total_steps: int | None = None
    log_every: int = 1
    batch_size: int | None = None
    tokens_per_step: float | None = None
    steps_per_epoch: float | None = None
    epoch_offset: int = 0  # 1 if the log counts epochs from 0 and the history from 1
    optimizer: str | None = None  # class name, such as AdamW or SGD
    peak_lr: float | None = None
    grad_clip: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None  # class name in harness.training.schedules, such as Cosine or Plateau
    monitor: str | None = None  # loss that a plateau schedule monitors: val/loss or train/loss
    patience: int | None = None  # evaluations without improvement that a plateau schedule waits for
    requested_warmup: float | None = None  # steps, not rounded
    warmup_steps: int | None = None  # in effect
    lora_rank: int | None = None
    length: tuple[str, float] | None = None  # the key that sets the length of the run, and its value
    unit: str | None = None  # of val/loss
    data: DataIdentity | None = None  # None for logs of other programs
    objective: Mapping[str, str] = field(default_factory=dict)  # further settings that decide what val/loss measures
    uniform_loss: float | None = None  # of a guess without knowledge: ln(vocabulary), or 1 for a relative error
    unigram_loss: float | None = None  # of the best guess that ignores the input: unigram entropy, mean predictor
    lr_band: tuple[float, float] | None = None  # from a range test of this experiment
    val_fraction: float | None = None  # of the data, held out for evaluation
    parameters: int | None = None
    trainable_parameters: int | None = None
    seconds: float | None = None  # wall-clock time, from the start to the last record
    settings: Mapping[str, str] | None = None  # that the run was given, by the names that its program uses
    provenance: Mapping[str, str] | None = None  # commit, machine and versions
    objectives: Mapping[str, float] | None = None  # values of a trial that another program ran, by name
    expect: tuple[str, ...] = ()  # expectations written down before the run
    notes: tuple[str, ...] = ()  # on the reading, such as files beside it that could not be read
    source: str = ""


class SpikeRecord(NamedTuple):
    """A loss spike seen during training; `example_range` holds the data positions of its steps."""

    step: int
    last_good_step: int
    loss: float
    baseline_loss: float
    example_range: tuple[int, int] | None
    restored_step: int | None


@dataclass
class History:
    """Curves by metric name, filled row by row.

    Diagnosis reads train/{loss,lr,grad_norm,clip_fraction,tokens}, val/{loss,loss_se,coverage},
    perf/{tokens,steps}_per_second and grad_norm/LAYER. Comparisons also read time/seconds.
    """

    facts: RunFacts = field(default_factory=RunFacts)
    spikes: list[SpikeRecord] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)  # steps
    _points: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    _arrays: dict[str, Series] = field(default_factory=dict)

    def add_row(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics; an earlier step (after a rollback) drops what lies at and after it.

        A NaN loss or norm becomes infinite; other NaN values are left out.
        """
        for name, value in metrics.items():
            self.add_points(name, [(step, value)])

    def add_points(self, name: str, points: Iterable[tuple[int, float]]) -> None:
        """Add (step, value) points of one metric, as `add_row` does."""
        steps, values = self._points.get(name, ([], []))
        for step, value in points:
            if value != value:
                if name not in NEVER_NAN:
                    continue
                value = math.inf
            while steps and steps[-1] >= step:
                steps.pop()
                values.pop()
            steps.append(step)
            values.append(float(value))
        if steps:
            self._points[name] = steps, values
            self._arrays.pop(name, None)

    def prepend(self, earlier: "History") -> bool:
        """Add the points of an earlier part of the run that lie before this part; return False if this one is whole."""
        first = min((steps[0] for steps, _ in self._points.values() if steps), default=0)
        if first <= min((steps[0] for steps, _ in earlier._points.values() if steps), default=0):
            return False
        for name in earlier.metric_names():
            known, (steps, values) = earlier[name], self._points.get(name, ([], []))
            count = int(np.searchsorted(known.steps, first))
            self._points[name] = (known.steps[:count].tolist() + steps, known.values[:count].tolist() + values)
            self._arrays.pop(name, None)
        return True

    def __getitem__(self, name: str) -> Series:
        """Return a metric's series, empty if it was never recorded."""
        if name not in self._arrays:
            steps, values = self._points.get(name, ([], []))
            self._arrays[name] = Series(np.array(steps, np.int64), np.array(values, np.float64))
        return self._arrays[name]

    def metric_names(self, prefix: str = "") -> list[str]:
        return [name for name in self._points if name.startswith(prefix)]

    @property
    def last_step(self) -> int:
        return max((steps[-1] for steps, _ in self._points.values() if steps), default=0)

    def describe_step(self, step: float) -> str:
        """Return "step 800", "epoch 8" for a log that counts epochs, or "row 8" for one that counts nothing."""
        if self.facts.steps_unit != "epochs":
            return f"{self.facts.steps_unit.removesuffix('s')} {step:.0f}"
        return f"epoch {step / (self.facts.steps_per_epoch or 1) - self.facts.epoch_offset:.6g}"

    def describe_part(self, first: float, last: float) -> str:
        """Return "step 400 to 800", in the unit of the log."""
        return f"{self.describe_step(first)} to {self.describe_step(last).partition(' ')[2]}"

    def tokens_at(self, steps: np.ndarray) -> np.ndarray | None:
        """Return the tokens trained on by these steps; None if unknown."""
        known = self["train/tokens"]
        if len(known) > 1:
            return np.interp(steps, np.r_[0, known.steps], np.r_[0.0, known.values])
        per_step = self.facts.tokens_per_step
        return None if per_step is None else np.asarray(steps) * per_step
