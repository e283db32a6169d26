"""Learning-rate schedules: multipliers of the peak LR, each a warm-up followed by a decay."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.core.state import Progress

CONVENTIONS = ("harness", "transformers")


def _check_range(name: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name}={value!r} must be {kind} {bounds}")


@dataclass(frozen=True, kw_only=True)
class WarmupSchedule:
    """Linear warm-up, given as a share of the run or in steps, followed by `decay_multiplier`.

    `convention` is one of CONVENTIONS. With "harness" the first update has an LR above 0, and a share of the run is
    rounded to the nearest step; with "transformers" its LR is 0, and a share is rounded up, as in that library.

    Raises:
        ValueError: If a value is out of range, both forms of warm-up are given, or the convention is unknown.
    """

    warmup_ratio: float | None = None
    warmup_steps: int | None = None
    convention: str = "harness"

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise ValueError(f"convention={self.convention!r} must be one of {', '.join(CONVENTIONS)}")
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise ValueError(
                f"warmup_ratio={self.warmup_ratio} and warmup_steps={self.warmup_steps} are both given; "
                "leave out one of them"
            )
        if self.warmup_ratio is not None:
            _check_range("warmup_ratio", self.warmup_ratio, 0, 1)
        if self.warmup_steps is not None:
            _check_range("warmup_steps", self.warmup_steps, 0, whole=True)

    def count_warmup_steps(self, total_steps: int) -> int:
        """Return the number of warm-up steps in a run of `total_steps`.

        Raises:
            ValueError: If the run is shorter than the warm-up.
        """
        if self.warmup_steps is None:
            share = total_steps * (self.warmup_ratio or 0)
            return math.ceil(share) if self.convention == "transformers" else round(share)
        if self.warmup_steps > total_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} is longer than the run of {total_steps} steps; "
                "lower it or train for longer"
            )
        return self.warmup_steps

    def warmup_notice(self, total_steps: int) -> str | None:
        """Return a notice if the requested warm-up rounds to 0 steps."""
        if not self.warmup_ratio or self.count_warmup_steps(total_steps):
            return None
        return f"warmup_ratio={self.warmup_ratio} of {total_steps} steps rounds to 0: there is no warm-up"

    def lr_multiplier(self, at: Progress) -> float:
        """Return the share of the peak LR for the next update, after `at.step` updates."""
        warmup = self.count_warmup_steps(at.total_steps)
        if at.step < warmup:
            return self._count_from(at.step) / warmup * self.decay_multiplier(0.0)
        return self.decay_multiplier(min(1.0, (at.step - warmup) / max(1, at.total_steps - warmup)))

    def _count_from(self, step: int) -> int:
        """Return the number of the next update, after `step` updates: from 1, or from 0 as transformers counts."""
        return step if self.convention == "transformers" else step + 1

    def decay_multiplier(self, fraction: float) -> float:
        """Return the multiplier after `fraction` (0 to 1) of the steps that follow the warm-up."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Constant(WarmupSchedule):
    """The peak LR until the end."""

    def decay_multiplier(self, fraction: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class _DecayingSchedule(WarmupSchedule):
    final_ratio: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("final_ratio", self.final_ratio, 0, 1)

    def interpolate_to_final(self, height: float) -> float:
        """Return 1 at `height` 1, `final_ratio` at 0, and a linear interpolation between them."""
        return self.final_ratio + (1 - self.final_ratio) * height


@dataclass(frozen=True, kw_only=True)
class Linear(_DecayingSchedule):
    """Linear decay to `final_ratio` of the peak."""

    def decay_multiplier(self, fraction: float) -> float:
        return self.interpolate_to_final(1 - fraction)


@dataclass(frozen=True, kw_only=True)
class Cosine(_DecayingSchedule):
    """Half a cosine from the peak to `final_ratio` of it (Loshchilov and Hutter, 2017)."""

    def decay_multiplier(self, fraction: float) -> float:
        return self.interpolate_to_final((1 + math.cos(math.pi * fraction)) / 2)


@dataclass(frozen=True, kw_only=True)
class Polynomial(_DecayingSchedule):
    """Decay with the remaining fraction to the `power`, to `final_ratio` of the peak."""

    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("power", self.power, 0)

    def decay_multiplier(self, fraction: float) -> float:
        return self.interpolate_to_final((1 - fraction) ** self.power)


@dataclass(frozen=True, kw_only=True)
class WSD(_DecayingSchedule):
    """Warm-up, stable, decay: constant, then linear over the last `decay_ratio` of the steps (Hu et al., 2024)."""

    decay_ratio: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("decay_ratio", self.decay_ratio, 0, 1)

    def decay_multiplier(self, fraction: float) -> float:
        remaining = 1 - fraction
        return self.interpolate_to_final(remaining / self.decay_ratio) if remaining < self.decay_ratio else 1.0


@dataclass(frozen=True, kw_only=True)
class InverseSqrt(WarmupSchedule):
    """Decay with one over the square root of the step, from the end of the warm-up (Vaswani et al., 2017)."""

    def lr_multiplier(self, at: Progress) -> float:
        warmup = self.count_warmup_steps(at.total_steps)
        if not warmup:
            return 1 / math.sqrt(at.step + 1)
        update = self._count_from(at.step)
        return min(update / warmup, math.sqrt(warmup / max(1, update)))


@dataclass
class _PlateauState:
    best: float = math.inf
    bad: int = 0  # evaluations since the best
    cooldown: int = 0  # evaluations left in which none counts as bad
    ratio: float = 1.0  # product of all cuts


@dataclass(frozen=True, kw_only=True)
class Plateau(WarmupSchedule):
    """Multiply the LR by `factor` after more than `patience` evaluations without a better validation loss.

    Better means below the best by a relative `threshold`. For `cooldown` evaluations after a cut, none counts as bad.
    Equals torch's ReduceLROnPlateau with `threshold_mode="rel"`.
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
            raise ValueError(f"factor={self.factor} must lie between 0 and 1; 0.5 halves the LR at each plateau")

    def idle_notice(self, evals: int) -> str | None:
        """Return a notice if a run of `evals` evaluations ends before the first cut is possible."""
        earliest = self.patience + 2  # the best one, and more than `patience` others
        if evals >= earliest:
            return None
        return f"patience={self.patience} allows a first cut after {earliest} evaluations, and the run has {evals}"

    def decay_multiplier(self, fraction: float) -> float:
        return self.plateau_state.ratio

    def observe(self, val_loss: float) -> None:
        """Record an evaluation and cut the LR if the patience is exhausted."""
        state = self.plateau_state
        is_better = val_loss < state.best * (1 - self.threshold)
        state.best = val_loss if is_better else state.best
        state.bad = 0 if is_better or state.cooldown else state.bad + 1
        state.cooldown = max(0, state.cooldown - 1)
        if state.bad > self.patience:
            state.ratio = max(state.ratio * self.factor, self.min_ratio)
            state.bad, state.cooldown = 0, self.cooldown

    def reset_best(self) -> None:
        """Forget the best loss, for example because the validation data changed. LR cuts remain."""
        self.plateau_state.best, self.plateau_state.bad = math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return asdict(self.plateau_state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in asdict(self.plateau_state):
            setattr(self.plateau_state, name, state[name])
