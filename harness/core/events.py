"""Immutable events of a run, sent by the loop and the runner to observers and policies."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.core.effective_settings import EffectiveSettings
from harness.core.task import ExampleSums, Metric

CHECK_KEY = "check"  # of suggestions to look at the bug or the lr that their value names
Status = Literal["completed", "pruned", "diverged", "failed", "interrupted", "paused"]


@dataclass(frozen=True)
class RunStart:
    """A run is about to train. Holds everything needed to interpret the events that follow."""

    name: str
    folder: Path
    total_steps: int
    log_every: int
    params: Mapping[str, str]  # the resolved configuration by dotted key
    effective: EffectiveSettings
    tags: Mapping[str, str]
    constants: Mapping[str, float]  # reference values for the metrics, from the task
    dataset: Mapping[str, str]  # name, digest and source of the training data
    overrides: tuple[str, ...] = ()  # that the configuration was composed from; empty if unknown or none
    past: "PastRecord | None" = None  # what a run that is continued had recorded


@dataclass(frozen=True)
class StepEnd:
    """One optimizer update, applied or skipped."""

    step: int
    tokens: int
    loss: float
    lr: float
    grad_norm: float  # before clipping
    is_clipped: bool
    skips: int  # consecutive updates skipped because a gradient was not finite; 0 if this one was applied
    seconds: float
    step_tokens: int
    examples: int = 0  # data position: number of examples before the next step


@dataclass(frozen=True)
class PastRecord:
    """The record of a run at the checkpoint from which it is continued.

    Observers take from it what they hold in memory. What was recorded later is dropped.
    """

    step: int
    seconds: float
    n_bytes: int  # of the record
    pending: tuple[StepEnd, ...] = field(repr=False)  # steps that no row has yet
    entries: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)  # of the record, in order


@dataclass(frozen=True)
class EvalEnd:
    """One pass over the whole validation set. Step 0 is before training.

    A probe is one in addition to those of the plan: the best loss, `evals_since_best` and the run are as without it.
    """

    step: int
    tokens: int
    metrics: Mapping[str, Metric]
    best_val_loss: float
    best_step: int
    is_best: bool
    evals_since_best: int
    fraction_done: float  # share of the run's steps completed, 0 to 1
    seconds: float
    grad_norms: Mapping[str, float] = field(default_factory=dict)  # by layer, of the last step, before clipping
    examples: tuple[ExampleSums, ...] = field(default=(), repr=False, compare=False)  # by batch, with record_examples
    is_probe: bool = False

    @property
    def val_loss(self) -> float:
        """Mean validation loss."""
        return self.metrics["loss"].value


@dataclass(frozen=True)
class FinalTest:
    """One pass over the whole test split, with the best weights by validation loss, at the end of a completed run."""

    step: int  # last step of the run
    tokens: int
    best_step: int  # of the weights
    metrics: Mapping[str, Metric]
    examples: tuple[ExampleSums, ...] = field(default=(), repr=False, compare=False)  # by batch, with record_examples

    @property
    def test_loss(self) -> float:
        """Mean loss on the test split."""
        return self.metrics["loss"].value


@dataclass(frozen=True)
class OutOfMemory:
    """A micro-batch did not fit into memory. The step is retried with a smaller one."""

    step: int
    micro_batch_size: int
    message: str


@dataclass(frozen=True)
class Spike:
    """The training loss rose sharply after `last_good_step`."""

    step: int
    last_good_step: int
    loss: float
    baseline_loss: float
    restored_step: int | None  # step of the restored checkpoint; None without a rollback
    lr_factor: float  # applied to every LR from here on
    is_continuing: bool
    example_range: tuple[int, int] = (0, 0)  # data positions [from, to) of the steps that led to the spike


@dataclass(frozen=True)
class Suggestion:
    """A setting to try, by its key in our configuration; `harness.diagnosis.dialects` renders it for other programs.

    `factor` is the ratio to the present value where the advice is relative. A relative suggestion with the value None
    has only the factor, since the present value is unknown. With the key CHECK_KEY, it is no setting but something to
    look at.
    """

    key: str  # such as optimizer.lr or loop.max_steps
    value: float | int | bool | str | None
    factor: float | None = None
    when: str = ""  # the moment that the setting refers to, such as "step 120"

    @property
    def is_relative(self) -> bool:
        return self.value is None and self.factor is not None

    @property
    def is_setting(self) -> bool:
        """Return whether it can be written as `key=value`."""
        return not self.is_relative and self.key != CHECK_KEY


@dataclass(frozen=True)
class Diagnosis:
    """A problem found in the curves of a run at `step`, with the numbers behind it and settings to try."""

    kind: str
    step: int
    confidence: float  # 0 to 1
    reason: str  # one sentence
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    suggestions: tuple[Suggestion, ...] = ()


@dataclass(frozen=True)
class FinalDiagnosis:
    """Diagnoses at the end of a run."""

    diagnoses: tuple[Diagnosis, ...]
    resolved: tuple[Diagnosis, ...]  # reported earlier, but no longer true
    expectations: str  # one sentence on how the user's forecasts did; empty if there were none
    assessment: tuple[str, ...] = ()  # the slopes of the losses, what could not be judged, and what follows


@dataclass(frozen=True)
class Notice:
    """A message for the user that is not an error, such as a warm-up of 0 steps or an unreachable server."""

    text: str


@dataclass(frozen=True)
class RunEnd:
    """The run is over. `reason` is empty only for a completed run."""

    status: Status
    reason: str
    step: int
    tokens: int
    seconds: float
    best_val_loss: float
    best_step: int
    test_loss: float | None = None  # of the best weights, with score_test
    artifacts: tuple[Path, ...] = field(default=())


Event = RunStart | StepEnd | EvalEnd | FinalTest | OutOfMemory | Spike | Diagnosis | FinalDiagnosis | Notice | RunEnd


class Observer:
    """Receiver of every event in order, on the training thread. It must not raise and must be fast.

    It may return further events that follow from this one; all observers receive them after it.
    """

    def __call__(self, event: Event) -> Iterable[Diagnosis | FinalDiagnosis] | None:
        raise NotImplementedError

    def flush(self) -> None:
        """Write received events to disk. Called before each checkpoint.

        Raises:
            OSError: If that fails.
        """

    def close(self) -> None:
        """Finish pending work; called once, after RunEnd."""
