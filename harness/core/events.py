"""Past facts, frozen: what the loop and the runner tell the observers and the policies."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.core.task import Metric

Status = Literal["completed", "pruned", "diverged", "failed", "interrupted"]


@dataclass(frozen=True)
class RunStart:
    """A run was built and is about to train; all that a reader needs to make sense of what follows."""

    name: str
    folder: Path
    total_steps: int
    log_every: int
    params: Mapping[str, str]
    """The dotted keys of the resolved configuration, and `effective.*`, read from the built objects."""
    tags: Mapping[str, str]
    constants: Mapping[str, float]
    dataset: Mapping[str, str]
    """name, digest and source of the training data."""


@dataclass(frozen=True)
class StepEnd:
    """One optimizer update, applied or skipped."""

    step: int
    tokens: int
    loss: float
    lr: float
    grad_norm: float
    """Before clipping."""
    is_clipped: bool
    skips: int
    """Updates skipped in a row, this one included, because a gradient was not finite; 0 when it was applied."""
    seconds: float
    step_tokens: int
    examples: int = 0
    """The data position: how many examples came before the next step."""


@dataclass(frozen=True)
class EvalEnd:
    """One pass over the whole validation set; step 0 is before training."""

    step: int
    tokens: int
    metrics: Mapping[str, Metric]
    best_val_loss: float
    best_step: int
    is_best: bool
    evals_since_best: int
    fraction_done: float
    """Share of the run's steps completed, 0 to 1."""
    seconds: float
    grad_norms: Mapping[str, float] = field(default_factory=dict)
    """By layer, of the step before, before clipping."""

    @property
    def val_loss(self) -> float:
        return self.metrics["loss"].value


@dataclass(frozen=True)
class OutOfMemory:
    """A step batch did not fit; it is split anew and tried again."""

    step: int
    micro_batch_size: int
    message: str


@dataclass(frozen=True)
class Spike:
    """The training loss left its course after step `last_good_step`. `restored_step` is the step of the checkpoint that the run
    went back to, to go on at `lr_factor` of every LR; None where it did not."""

    step: int
    last_good_step: int
    loss: float
    baseline_loss: float
    restored_step: int | None
    lr_factor: float
    is_continuing: bool
    example_range: tuple[int, int] = (0, 0)
    """The data positions, from and up to, of the steps that led to it."""


@dataclass(frozen=True)
class Diagnosis:
    """What diagnosis says of a run at `step`: the reason in a sentence, the numbers it rests on, and overrides to try,
    as run.py takes them. `confidence` lies between 0 and 1."""

    kind: str
    step: int
    confidence: float
    reason: str
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class FinalDiagnosis:
    """What holds of a run at its end, what was said of it and holds no longer, and how its forecasts did, in a
    sentence, empty where there were none."""

    diagnoses: tuple[Diagnosis, ...]
    resolved: tuple[Diagnosis, ...]
    expectations: str


@dataclass(frozen=True)
class Notice:
    """Something the user must hear that is no error: a warm-up of 0 steps, a server that is down."""

    text: str


@dataclass(frozen=True)
class RunEnd:
    """`reason` is empty only for a completed run."""

    status: Status
    reason: str
    step: int
    tokens: int
    seconds: float
    best_val_loss: float
    best_step: int
    artifacts: tuple[Path, ...] = field(default=())


Event = RunStart | StepEnd | EvalEnd | OutOfMemory | Spike | Diagnosis | FinalDiagnosis | Notice | RunEnd


class Observer:
    """Is told every event, in order, on the training thread; must not raise and must not be slow.

    What it answers, if anything, is what may be said of what came before: all are told that first."""

    def __call__(self, event: Event) -> Iterable[Diagnosis | FinalDiagnosis] | None:
        raise NotImplementedError

    def close(self) -> None:
        """Finish what is under way; called once, after RunEnd."""
