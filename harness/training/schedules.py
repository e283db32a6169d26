"""Learning-rate schedules: pure multipliers of the peak LR, each one warm-up times decay."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.core.state import Progress


def _check_range(name: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name}={value!r} must be {kind} {bounds}")


@dataclass(frozen=True, kw_only=True)
class WarmupSchedule:
    """Warm-up by a share of the run or by a number of steps, then `decay`; ValueError when both are given."""

    warmup_ratio: float | None = None
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise ValueError(
                f"warmup_ratio={self.warmup_ratio} and warmup_steps={self.warmup_steps} are both given: "
                "to warm up by steps, set schedule.warmup_ratio=null too"
            )
        if self.warmup_ratio is not None:
            _check_range("warmup_ratio", self.warmup_ratio, 0, 1)
        if self.warmup_steps is not None:
            _check_range("warmup_steps", self.warmup_steps, 0, whole=True)

    def count_warmup_steps(self, total_steps: int) -> int:
        """Steps of warm-up in a run of `total_steps`; ValueError when they are more than the run has."""
        if self.warmup_steps is None:
            return round((self.warmup_ratio or 0) * total_steps)
        if self.warmup_steps > total_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} is longer than the run of {total_steps} steps: "
                "lower it or train for longer"
            )
        return self.warmup_steps

    def warmup_notice(self, total_steps: int) -> str | None:
        """What the user must hear when a warm-up was asked for and comes to no step."""
        if not self.warmup_ratio or self.count_warmup_steps(total_steps):
            return None
        return f"warmup_ratio={self.warmup_ratio} of {total_steps} steps rounds to 0: there is no warm-up"

    def lr_multiplier(self, at: Progress) -> float:
        """The share of the peak LR for the update that follows `at.step` updates; never 0 in warm-up."""
        warmup = self.count_warmup_steps(at.total_steps)
        if at.step < warmup:
            return (at.step + 1) / warmup * self.decay_multiplier(0.0)
        return self.decay_multiplier(min(1.0, (at.step - warmup) / max(1, at.total_steps - warmup)))

    def decay_multiplier(self, share: float) -> float:
        """The multiplier when `share` of the steps after the warm-up are done."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Constant(WarmupSchedule):
    """The peak LR to the end."""

    def decay_multiplier(self, share: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class _DecayingSchedule(WarmupSchedule):
    final_ratio: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("final_ratio", self.final_ratio, 0, 1)

    def interpolate_to_final(self, height: float) -> float:
        """From the peak at `height` 1 to `final_ratio` at 0."""
        return self.final_ratio + (1 - self.final_ratio) * height


@dataclass(frozen=True, kw_only=True)
class Linear(_DecayingSchedule):
    """A straight line from the peak to `final_ratio` of it."""

    def decay_multiplier(self, share: float) -> float:
        return self.interpolate_to_final(1 - share)


@dataclass(frozen=True, kw_only=True)
class Cosine(_DecayingSchedule):
    """Half a cosine from the peak to `final_ratio` of it (Loshchilov and Hutter, 2017)."""

    def decay_multiplier(self, share: float) -> float:
        return self.interpolate_to_final((1 + math.cos(math.pi * share)) / 2)


@dataclass(frozen=True, kw_only=True)
class Polynomial(_DecayingSchedule):
    """The remaining share to the `power`, from the peak to `final_ratio` of it."""

    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("power", self.power, 0)

    def decay_multiplier(self, share: float) -> float:
        return self.interpolate_to_final((1 - share) ** self.power)


@dataclass(frozen=True, kw_only=True)
class WSD(_DecayingSchedule):
    """Warm-up, stable, then a line down over the last `decay_ratio` of the steps after warm-up (Hu et al., 2024)."""

    decay_ratio: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("decay_ratio", self.decay_ratio, 0, 1)

    def decay_multiplier(self, share: float) -> float:
        left = 1 - share
        return self.interpolate_to_final(left / self.decay_ratio) if left < self.decay_ratio else 1.0


@dataclass(frozen=True, kw_only=True)
class InverseSqrt(WarmupSchedule):
    """Falls with one over the root of the updates, from the end of the warm-up (Vaswani et al., 2017)."""

    def lr_multiplier(self, at: Progress) -> float:
        warmup, update = max(1, self.count_warmup_steps(at.total_steps)), at.step + 1
        return min(update / warmup, math.sqrt(warmup / update))


@dataclass
class _PlateauState:
    """What a plateau schedule has seen."""

    best: float = math.inf
    bad: int = 0
    cooldown: int = 0
    ratio: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plateau(WarmupSchedule):
    """Multiplies by `factor` after more than `patience` evaluations without a better validation loss.

    Better means below the best by a relative `threshold`; for `cooldown` evaluations after a cut none counts as bad.
    """

    factor: float = 0.5
    patience: int = 5
    threshold: float = 1e-4
    cooldown: int = 0
    min_ratio: float = 0.0
    plateau_state: _PlateauState = field(default_factory=_PlateauState, init=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("factor", "threshold", "min_ratio"):
            _check_range(name, getattr(self, name), 0, 1)
        for name in ("patience", "cooldown"):
            _check_range(name, getattr(self, name), 0, whole=True)
        if self.factor in (0, 1):
            raise ValueError(f"factor={self.factor} must lie between 0 and 1: 0.5 halves the LR at each plateau")

    def idle_notice(self, evals: int) -> str | None:
        """What the user must hear when a run of `evals` evaluations is over before the first cut can come."""
        earliest = self.patience + 2  # one that is best, and more than `patience` that are not
        if evals >= earliest:
            return None
        return f"patience={self.patience} allows a first cut after {earliest} evaluations, and the run has {evals}"

    def decay_multiplier(self, share: float) -> float:
        return self.plateau_state.ratio

    def observe(self, val_loss: float) -> None:
        seen = self.plateau_state
        is_better = val_loss < seen.best * (1 - self.threshold)
        seen.best = val_loss if is_better else seen.best
        seen.bad = 0 if is_better or seen.cooldown else seen.bad + 1
        seen.cooldown = max(0, seen.cooldown - 1)
        if seen.bad > self.patience:
            seen.ratio = max(seen.ratio * self.factor, self.min_ratio)
            seen.bad, seen.cooldown = 0, self.cooldown

    def reset_best(self) -> None:
        self.plateau_state.best, self.plateau_state.bad = math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.plateau_state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in asdict(self.plateau_state):
            setattr(self.plateau_state, name, state[name])
