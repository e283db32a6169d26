"""Schema of the sections whose values we define ourselves; each dataclass validates its values.

Components that are named by a `_target_` need no schema: their signature is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

from harness.config.alternatives import ALTERNATIVES


@dataclass(frozen=True)
class BatchSettings:
    batch_size: int
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        _check_at_least(1, batch_size=self.batch_size, micro_batch_size=self.micro_batch_size)

    def resolve_micro_batch_size(self, devices: int) -> int:
        """Return the number of examples per forward pass on each device.

        Raises:
            ValueError: If the batch cannot be divided evenly.
        """
        if self.batch_size % devices:
            raise ValueError(f"batch_size: {self.batch_size} is not a multiple of {devices} devices")
        share = self.batch_size // devices
        micro = self.micro_batch_size or share
        if share % micro:
            divisors = [str(n) for n in range(1, share + 1) if share % n == 0]
            total = f"{share} examples per device" if devices > 1 else f"batch_size {share}"
            raise ValueError(f"micro_batch_size: {micro} does not divide {total}; choose from {', '.join(divisors)}")
        return micro


@dataclass(frozen=True)
class LoopSettings:
    max_steps: int | None = None
    epochs: float | None = None
    max_tokens: int | None = None
    evals: int | None = None
    eval_every: int | None = None
    log_every: int = 10
    grad_clip: float | None = None
    patience: int | None = None
    on_spike: Literal["warn", "rollback", "stop"] = "warn"
    spike_lr_factor: float = 0.5
    max_rollbacks: int = 3
    save_every: int | None = None
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for names in ALTERNATIVES["loop"]:
            _check_exactly_one({name: getattr(self, name) for name in names})
        _check_at_least(1, **{name: getattr(self, name) for name in (
            "max_steps", "max_tokens", "evals", "eval_every", "log_every", "patience", "save_every",
            "keep_checkpoints", "max_rollbacks")})  # fmt: skip
        _check_positive(epochs=self.epochs, grad_clip=self.grad_clip, spike_lr_factor=self.spike_lr_factor)
        if self.spike_lr_factor > 1:
            raise ValueError(f"spike_lr_factor: {self.spike_lr_factor} would raise the LR after a spike; use 1 or less")

    def compute_total_steps(self, batch_size: int, examples: int, tokens_per_example: float) -> int:
        """Return the number of steps in the run.

        An epoch has examples // batch_size steps; a token budget is rounded up to whole steps.
        """
        if self.max_steps is not None:
            return self.max_steps
        if self.epochs is not None:
            return max(1, round(self.epochs * max(1, examples // batch_size)))
        assert self.max_tokens is not None
        return max(1, -(-self.max_tokens // round(batch_size * tokens_per_example)))

    def compute_eval_steps(self, total_steps: int) -> frozenset[int]:
        """Return the steps after which to evaluate, which include the last one."""
        if self.eval_every is not None:
            return frozenset(range(self.eval_every, total_steps, self.eval_every)) | {total_steps}
        assert self.evals is not None
        return frozenset(max(1, round(total_steps * k / self.evals)) for k in range(1, self.evals + 1))


@dataclass(frozen=True)
class PrecisionSettings:
    autocast: Literal["bfloat16", "float16"] | None = None
    max_skips: int = 0

    def __post_init__(self) -> None:
        _check_at_least(0, max_skips=self.max_skips)


@dataclass(frozen=True)
class DeviceSettings:
    kind: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        _check_at_least(1, threads=self.threads)


@dataclass(frozen=True)
class StartSettings:
    kind: Literal["scratch", "warm", "resume"] = "scratch"
    source: str | None = None
    run: str | None = None
    checkpoint: str = "last"
    restart_schedule: bool = False

    def __post_init__(self) -> None:
        for name, kind, value in (("source", "warm", self.source), ("run", "resume", self.run)):
            if self.kind == kind and not value:
                raise ValueError(f"{name}: has no value; use start={kind} start.{name}=…")
        if (self.kind == "warm") != bool(self.source):
            raise ValueError(f"source: {self.source!r} cannot be combined with kind {self.kind}; use start=warm")
        if (self.kind == "resume") != bool(self.run):
            raise ValueError(f"run: {self.run!r} cannot be combined with kind {self.kind}; use start=resume")
        if self.checkpoint not in ("best", "last") and not self.checkpoint.isdecimal():
            raise ValueError(f"checkpoint: {self.checkpoint!r}: must be best, last or a step")


@dataclass(frozen=True)
class TrackingSettings:
    uri: str | None = None
    experiment: str = "default"


@dataclass(frozen=True)
class RunSettings:
    """Validated settings of a run; components such as the optimizer stay in the configuration until they are built."""

    seed: int
    batch: BatchSettings
    loop: LoopSettings
    precision: PrecisionSettings
    device: DeviceSettings
    start: StartSettings
    tracking: TrackingSettings
    weight_decay_applies_to: Literal["hidden", "matrices", "all"]
    record_examples: bool
    score_test: bool
    output_dir: Path
    cache_dir: Path


def list_value_types(key: str) -> set[type]:
    """Return the types that the setting with this dotted key may have; none for a key of a component."""
    section, _, name = key.partition(".")
    hint = get_type_hints(get_type_hints(RunSettings).get(section, object)).get(name)
    return set(get_args(hint)) or ({hint} if isinstance(hint, type) else set())


def takes_whole_number(key: str) -> bool:
    """Return whether the setting with this dotted key is a whole number."""
    return list_value_types(key) - {NoneType} == {int}


def _check_exactly_one(values: Mapping[str, Any]) -> None:
    names = [name for name, value in values.items() if value is not None]
    if len(names) != 1:
        found = " and ".join(f"{name}={values[name]}" for name in names) or "none is set"
        remedy = "leave out one of them" if names else f"set loop.{next(iter(values))}"
        raise ValueError(f"{(names or list(values))[0]}: set exactly one of {', '.join(values)} ({found}); {remedy}")


def _check_at_least(lowest: int, **given: Any) -> None:
    for name, value in given.items():
        if value is not None and value < lowest:
            raise ValueError(f"{name}: {value} must be at least {lowest}")


def _check_positive(**given: Any) -> None:
    for name, value in given.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}: {value} must be above 0")
