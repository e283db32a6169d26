"""All that a run would need to go on: the one thing a checkpoint holds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.core import seeding


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `step` updates and `tokens` are done of `total_steps`."""

    step: int
    tokens: int
    total_steps: int


class Optimizer(Protocol):
    """One or several torch optimizers over named parameter groups, each with its peak LR."""

    parts: Sequence[torch.optim.Optimizer]

    def scale_lr(self, multiplier: float) -> None:
        """Put every group's LR at `multiplier` times its peak."""

    def current_lrs(self) -> dict[str, float]:
        """The LR in force of every group, by name."""

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def zero_grad(self) -> None: ...
    def train(self) -> None: ...
    def eval(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring back the moments; the numbers (LR, decay, betas) stay those of the configuration."""


class Schedule(Protocol):
    """A multiplier of the peak LR, a pure function of progress."""

    def lr_multiplier(self, at: Progress) -> float: ...
    def count_warmup_steps(self, total_steps: int) -> int:
        """Steps of warm-up; ValueError where the run is too short for them."""

    def warmup_notice(self, total_steps: int) -> str | None:
        """What the user must hear of a warm-up that comes to nothing."""


class ObservingSchedule(Schedule, Protocol):
    """A schedule that also learns from the validation loss, and so has a state of its own."""

    def observe(self, val_loss: float) -> None: ...
    def reset_best(self) -> None:
        """Losses from now on are of another kind: forget what was seen, not what was decided."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class TrainState:
    """The mutable heart of a run. `examples` is the data position; instants and settings are not state."""

    model: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    step: int = 0
    examples: int = 0
    tokens: int = 0
    best_val_loss: float = math.inf
    best_step: int = 0
    evals_since_best: int = 0
    skips: int = 0
    examples_per_epoch: int = 0
    """What `examples` is to be read against, where the same data are cut into rows of another length."""
    schedule_start_step: int = 0
    schedule_start_tokens: int = 0
    """Where the schedule began: at the start, or where a resumed run had it begin anew; where a resumed run takes other
    batches, as many steps of these back as it has come, which may be before the start."""
    lr_factor: float = 1.0
    """Of every LR, cut at each rollback."""
    rollbacks: int = 0
    last_spike_step: int = 0
    """The step at which the loss last left its course and was not brought back; 0 for never."""

    COUNTERS = ("step", "examples", "tokens", "best_val_loss", "best_step", "evals_since_best", "skips",
                "examples_per_epoch", "schedule_start_step", "schedule_start_tokens", "lr_factor", "rollbacks", "last_spike_step")  # fmt: skip

    def progress(self, total_steps: int) -> Progress:
        """Where the schedule stands in a run that ends after `total_steps`."""
        return Progress(
            self.step - self.schedule_start_step,
            self.tokens - self.schedule_start_tokens,
            total_steps - self.schedule_start_step,
        )

    def state_dict(self, rng: Sequence[Any] | None = None) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that it loads as data and never as code; `rng` is the generators'
        states of every process, by default of this one."""
        observed = self.schedule.state_dict() if hasattr(self.schedule, "state_dict") else {}
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": observed,
            "scaler": self.scaler.state_dict(),
            "rng": list(rng or [seeding.get_rng_state()]),
            "counters": {name: getattr(self, name) for name in self.COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any], *, rank: int = 0) -> None:
        """Go on from `state`; where fewer processes saved it than load it, the others keep the generators they have."""
        load_model_weights(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where it was not enabled
            self.scaler.load_state_dict(state["scaler"])
        if state["schedule"] and hasattr(self.schedule, "load_state_dict"):
            self.schedule.load_state_dict(state["schedule"])
        if rank < len(state["rng"]):
            seeding.set_rng_state(state["rng"][rank])
        for name, value in state["counters"].items():
            setattr(self, name, value)


def load_model_weights(model: nn.Module, weights: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """`model.load_state_dict`, but a ValueError where one of two tensors would silently overwrite the other."""
    if pair := find_broken_tie(model, weights):
        raise ValueError(f"{pair[0]} and {pair[1]} differ in the weights, but are one tensor in the model: untie it")
    model.load_state_dict(weights, strict=strict)


def find_broken_tie(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Two names of one tensor of `model` under which `weights` hold different ones, as once a tied head is adapted."""
    first_names: dict[int, str] = {}
    for name, tensor in model.state_dict().items():
        if name in weights and tensor.numel():
            first = first_names.setdefault(tensor.data_ptr(), name)
            if weights[first] is not weights[name] and not torch.equal(weights[first], weights[name]):
                return first, name
    return None
