"""The state of a run: everything a checkpoint holds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from harness.core import seeding
from harness.core.sharding import identify_storage, shard_like


@dataclass(frozen=True)
class Progress:
    """Position in a run: completed steps and tokens, and the total number of steps."""

    step: int
    tokens: int
    total_steps: int


class Optimizer(Protocol):
    """One or several torch optimizers over named parameter groups, each with its own peak LR."""

    parts: Sequence[torch.optim.Optimizer]

    def scale_lr(self, multiplier: float) -> None:
        """Set the LR of every group to `multiplier` times its peak."""

    def current_lrs(self) -> dict[str, float]:
        """Return the current LR of every group by name."""

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def zero_grad(self) -> None: ...
    def train(self) -> None: ...
    def eval(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the moments. Hyperparameters (LR, decay, betas) keep their configured values."""


class Schedule(Protocol):
    """A multiplier of the peak LR as a pure function of progress."""

    def lr_multiplier(self, at: Progress) -> float: ...
    def count_warmup_steps(self, total_steps: int) -> int:
        """Return the number of warm-up steps.

        Raises:
            ValueError: If the run is shorter than the warm-up.
        """

    def warmup_notice(self, total_steps: int) -> str | None:
        """Return a notice if the requested warm-up rounds to 0 steps."""


@runtime_checkable
class ObservingSchedule(Schedule, Protocol):
    """A schedule that also depends on the validation loss and therefore has state."""

    def observe(self, val_loss: float) -> None: ...
    def reset_best(self) -> None:
        """Forget the losses seen so far, for example because the validation data changed. LR cuts remain."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class TrainState:
    """Everything that changes during a run. Settings and times are not part of it."""

    model: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    step: int = 0
    examples: int = 0  # data position: number of examples consumed
    tokens: int = 0
    best_val_loss: float = math.inf
    best_step: int = 0
    evals_since_best: int = 0
    skips: int = 0  # consecutive updates skipped because a gradient was not finite
    examples_per_epoch: int = 0  # to convert `examples` if the same data are cut into rows of another length
    # Origin of the schedule: 0, or the step at which a resumed run restarted it. If a resumed run uses another batch
    # size, it is set so that the same share of the schedule is done; it may then be negative.
    schedule_start_step: int = 0
    schedule_start_tokens: int = 0
    lr_factor: float = 1.0  # applied to every LR; reduced by each rollback
    rollbacks: int = 0
    last_spike_step: int = 0  # last step before the latest spike that was not rolled back; 0 if none
    recent_losses: list[float] = field(default_factory=list)  # finite training losses, in which spikes are detected

    COUNTERS: ClassVar[tuple[str, ...]] = (
        "step", "examples", "tokens", "best_val_loss", "best_step", "evals_since_best", "skips", "examples_per_epoch",
        "schedule_start_step", "schedule_start_tokens", "lr_factor", "rollbacks", "last_spike_step",
    )  # fmt: skip

    def train(self) -> None:
        """Switch model and optimizer to training mode."""
        self.model.train()
        self.optimizer.train()

    def eval(self) -> None:
        """Switch model and optimizer to evaluation mode."""
        self.model.eval()
        self.optimizer.eval()

    def progress(self, total_steps: int) -> Progress:
        """Return the position of the schedule in a run that ends after `total_steps`."""
        start = self.schedule_start_step
        return Progress(self.step - start, self.tokens - self.schedule_start_tokens, total_steps - start)

    def state_dict(self, rng: Sequence[Any] | None = None) -> dict[str, Any]:
        """Return tensors, numbers and strings only, so that the state loads without executing code.

        `rng` holds the generator states of every process; by default, those of this process.
        """
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if isinstance(self.schedule, ObservingSchedule) else {},
            "scaler": self.scaler.state_dict(),
            "rng": list(rng or [seeding.get_rng_state()]),
            "counters": {name: getattr(self, name) for name in self.COUNTERS},
            "recent_losses": list(self.recent_losses),
        }

    def load_state_dict(self, state: dict[str, Any], *, rank: int = 0) -> None:
        """Restore `state`. Processes beyond those that saved it keep their own generators."""
        load_model_weights(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty if it was disabled
            self.scaler.load_state_dict(state["scaler"])
        if state["schedule"] and isinstance(self.schedule, ObservingSchedule):
            self.schedule.load_state_dict(state["schedule"])
        if rank < len(state["rng"]):
            seeding.set_rng_state(state["rng"][rank])
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.recent_losses[:] = state.get("recent_losses", ())  # in place: the policy for spikes holds the list


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode; restore the previous mode on exit."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def load_model_weights(model: nn.Module, weights: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Call `model.load_state_dict` after checking that tied parameters agree.

    Raises:
        ValueError: If two entries of `weights` differ but share one tensor in `model`.
    """
    if pair := find_broken_tie(model, weights):
        raise ValueError(f"{pair[0]} and {pair[1]} differ in the weights but are tied in the model; untie them first")
    own = model.state_dict(keep_vars=True)
    parts = {name: shard_like(tensor, own[name]) if name in own else tensor for name, tensor in weights.items()}
    model.load_state_dict(parts, strict=strict)


def find_broken_tie(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return two names of one tensor of `model` that differ in `weights`, as after training adapters of a tied head."""
    first_names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in weights and tensor.numel():
            first = first_names.setdefault(identify_storage(tensor), name)
            if weights[first] is not weights[name] and not torch.equal(weights[first], weights[name]):
                return first, name
    return None
