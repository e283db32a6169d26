"""The sections of the configuration that hold our own numbers, as dataclasses that validate themselves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class BatchSettings:
    batch_size: int
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        _check_at_least(1, batch_size=self.batch_size, micro_batch_size=self.micro_batch_size)

    def resolve_micro_batch_size(self, devices: int) -> int:
        """Examples a forward pass on each of `devices`; ValueError where the batch does not divide."""
        if self.batch_size % devices:
            raise ValueError(f"batch_size: {self.batch_size} does not divide over {devices} devices")
        share = self.batch_size // devices
        micro = self.micro_batch_size or share
        if share % micro:
            divisors = [str(n) for n in range(1, share + 1) if share % n == 0]
            each = f"{share} examples a device" if devices > 1 else f"batch_size {share}"
            raise ValueError(f"micro_batch_size: {micro} does not divide {each}; choose from {', '.join(divisors)}")
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
        _check_exactly_one(max_steps=self.max_steps, epochs=self.epochs, max_tokens=self.max_tokens)
        _check_exactly_one(evals=self.evals, eval_every=self.eval_every)
        _check_at_least(1, **{name: getattr(self, name) for name in (
            "max_steps", "max_tokens", "evals", "eval_every", "log_every", "patience", "save_every",
            "keep_checkpoints", "max_rollbacks")})  # fmt: skip
        _check_positive(epochs=self.epochs, grad_clip=self.grad_clip, spike_lr_factor=self.spike_lr_factor)
        if self.spike_lr_factor > 1:
            raise ValueError(f"spike_lr_factor: {self.spike_lr_factor} would raise the LR after a spike; use 1 or less")

    def compute_total_steps(self, batch_size: int, examples: int, tokens_per_example: float) -> int:
        """Updates in the run; an epoch is examples // batch_size of them, a token budget is rounded up."""
        if self.max_steps is not None:
            return self.max_steps
        if self.epochs is not None:
            return max(1, round(self.epochs * max(1, examples // batch_size)))
        return max(1, -(-self.max_tokens // round(batch_size * tokens_per_example)))

    def compute_eval_steps(self, total_steps: int) -> frozenset[int]:
        """The steps after which to evaluate; the last is always one."""
        if self.eval_every is not None:
            return frozenset(range(self.eval_every, total_steps, self.eval_every)) | {total_steps}
        return frozenset(max(1, round(total_steps * k / self.evals)) for k in range(1, self.evals + 1))


@dataclass(frozen=True)
class PrecisionSettings:
    autocast: Literal["bfloat16", "float16"] | None = None
    max_skips: int = 0

    def __post_init__(self) -> None:
        if self.autocast not in (None, "bfloat16", "float16"):
            raise ValueError(f"autocast: {self.autocast!r} is none of null, bfloat16, float16")
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
        if self.kind not in ("scratch", "warm", "resume"):
            raise ValueError(f"kind: {self.kind!r} is none of scratch, warm, resume")
        if (self.kind == "warm") != bool(self.source):
            raise ValueError(f"source: {self.source!r} does not go with kind {self.kind}; use start=warm with a source")
        if (self.kind == "resume") != bool(self.run):
            raise ValueError(f"run: {self.run!r} does not go with kind {self.kind}; use start=resume with a run")
        if self.checkpoint not in ("best", "last") and not self.checkpoint.isdecimal():
            raise ValueError(f"checkpoint: {self.checkpoint!r} is none of best, last and a step")


@dataclass(frozen=True)
class RunSettings:
    """The numbers that are ours; the components stay in the configuration until they are built."""

    seed: int
    batch: BatchSettings
    loop: LoopSettings
    precision: PrecisionSettings
    device: DeviceSettings
    start: StartSettings
    weight_decay_applies_to: Literal["hidden", "matrices", "all"]
    output_dir: Path
    cache_dir: Path


def _check_exactly_one(**given: Any) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        said = " and ".join(f"{name}={given[name]}" for name in names) or "none of them is set"
        one = names[0] if names else next(iter(given))
        others = " ".join(f"loop.{name}=null" for name in given if name != one)
        raise ValueError(f"{one}: exactly one of {', '.join(given)} says it, and {said}; add {others}")


def _check_at_least(lowest: int, **given: Any) -> None:
    for name, value in given.items():
        if value is not None and value < lowest:
            raise ValueError(f"{name}: {value} must be at least {lowest}")


def _check_positive(**given: Any) -> None:
    for name, value in given.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}: {value} must be above 0")
