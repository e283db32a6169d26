"""The LR over the run: read it from scheduler and optimizer, and compare its shape with the requested one."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.preflight.probe import is_plateau_scheduler, named_param_groups
from harness.preflight.report import Finding, failed, passed, skipped, warned
from harness.preflight.setup_values import RequestedSettings
from harness.preflight.training_setup import TrainingSetup

TOLERANCE = 0.01  # relative error of an LR
ROUNDING = 1e-6  # relative to the peak
# A scheduler is simulated for this many times the length of the run, at most MAX_EXTRA_STEPS beyond it.
HORIZON, MAX_EXTRA_STEPS = 4, 20_000
SPEEDUPS = range(2, 65)  # candidates for the number of scheduler steps per training step
SMALL_DECAY = 0.1  # share of its peak by which an LR should fall over the run, if it falls at all
CLIMB = 0.1  # share of its peak by which an LR climbs again
RESTART_SHARE = 0.25  # of the steps of the fall: a shorter climb is the warm-up of a restart
LATE_SHARE = 0.01  # of the fall of a decay that is left for its last quarter; less is left of an exponential one
MIN_DECAY_STEPS, MAX_JUMP = 4, 0.5  # steps of a decay, and the share of its fall that one step may take
CYCLIC_SCHEDULERS = ("CyclicLR", "CosineAnnealingWarmRestarts")


@dataclass(frozen=True)
class LRCurves:
    """LR of each parameter group in the updates after `steps` completed ones.

    `beyond` is the curve with the highest LR, from the first step to beyond the run's end, if it was simulated.
    """

    steps: np.ndarray
    groups: Mapping[str, np.ndarray]
    beyond: np.ndarray | None = None
    scheduler_names: frozenset[str] = frozenset()

    @property
    def highest(self) -> np.ndarray:
        """The curve of the group with the highest LR."""
        return max(self.groups.values(), key=np.max)


def read_lr_curves(setup: TrainingSetup) -> LRCurves:
    """Read LRs from `lrs_at` at the steps that matter, or at every step by advancing the scheduler without training."""
    requested = setup.requested
    with setup.preserved_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns if a scheduler's step does not follow an update
        if setup.lrs_at is None:
            return _simulate_scheduler(setup)
        total, warmup = requested.total_steps or 1, round(requested.warmup_steps or 0)
        wanted = {0, warmup // 2, warmup - 1, warmup, total // 4, total // 2, 3 * total // 4, total - 1}
        steps = sorted(step for step in wanted if 0 <= step < total)
        lrs = [setup.lrs_at(step) for step in steps]
        return LRCurves(np.array(steps), {name: np.array([read[name] for read in lrs]) for name in lrs[0]})


def _simulate_scheduler(setup: TrainingSetup) -> LRCurves:
    """Advance all schedulers from where they are, which is behind the completed steps in a resumed run."""
    schedulers = [each for each in setup.scheduler_list if not is_plateau_scheduler(each)]
    total = max(1, (setup.requested.total_steps or 1) - find_first_step(setup))
    lrs, beyond = [read_group_lrs(setup)], None
    if not schedulers:
        lrs *= total
    for _ in range(min(HORIZON * total, total + MAX_EXTRA_STEPS) - 1 if schedulers else 0):
        try:
            for scheduler in schedulers:
                scheduler.step()
        except ValueError:  # OneCycleLR ends at its own length
            break
        lrs.append(read_group_lrs(setup))
    curves = {name: np.array([read[name] for read in lrs]) for name in lrs[0]}
    if schedulers:
        beyond = max(curves.values(), key=np.max)
    steps = np.arange(min(total, len(lrs)))
    groups = {name: curve[: len(steps)] for name, curve in curves.items()}
    return LRCurves(steps + find_first_step(setup), groups, beyond, _name_schedulers(schedulers))


def find_first_step(setup: TrainingSetup) -> int:
    """Return the step at which the schedulers stand if the run is resumed, and 0 otherwise."""
    if not setup.requested.completed_steps or setup.lrs_at is not None:
        return 0
    return max((each.last_epoch for each in setup.scheduler_list if not is_plateau_scheduler(each)), default=0)


def read_group_lrs(setup: TrainingSetup) -> dict[str, float]:
    """Return the current LR of each parameter group by name."""
    return {name: float(group["lr"]) for name, group in named_param_groups(setup)}


def _name_schedulers(schedulers: Sequence[Any]) -> frozenset[str]:
    """Return the class names of the schedulers and of those that they chain."""
    names = {type(scheduler).__name__ for scheduler in schedulers}
    return frozenset(names.union(*(_name_schedulers(getattr(each, "_schedulers", ())) for each in schedulers)))


def check_schedule(requested: RequestedSettings, curves: LRCurves) -> Iterator[Finding]:
    """Compare the shape of the curve, relative to its peak, with the requested one."""
    total, multiplier = requested.total_steps, requested.lr_multiplier
    if total is None:
        yield skipped("schedule", "needs `requested.total_steps`")
        return
    curve, steps = curves.highest, curves.steps
    if multiplier is None:
        yield (_find_climb(curves, total) or _find_small_decay(curve, total) or _check_length(total, curves))
        return
    actual = curve / curve.max()
    wanted = np.array([multiplier(int(step)) for step in steps])
    height = wanted.max()
    errors = np.abs(actual - wanted / height)
    worst = int(errors.argmax())
    expected = f"the requested schedule over the run's {total} steps"
    if errors[worst] <= TOLERANCE:
        indices = sorted({0, len(steps) // 2, len(steps) - 1})
        shares = ", ".join(f"{actual[index]:.0%} at step {steps[index]}" for index in indices)
        yield passed("schedule", f"{shares} of the peak", expected)
        return
    observed = f"{actual[worst]:.0%} of the peak at step {steps[worst]} instead of {wanted[worst] / height:.0%}"
    for speedup in SPEEDUPS:
        faster = np.array([multiplier(int(speedup * step)) for step in steps]) / height
        if np.abs(actual - faster)[steps * speedup < total].max() <= TOLERANCE:
            observed += f", as if advanced {speedup} times per step"
            break
    yield failed("schedule", observed, expected, "Check the length given to the schedule, and what advances it")


def _find_climb(curves: LRCurves, total: int) -> Finding | None:
    """Find an LR that falls and then climbs again, as a cosine does if it is advanced beyond its own length."""
    curve, first = curves.highest, int(curves.steps[0])
    if curves.beyond is None or curve.max() <= 0:
        return None
    peak = int(np.argmax(curve >= (1 - ROUNDING) * curve.max()))
    falling = curve[peak:]
    low = int(peak + np.argmax(falling <= falling.min() + ROUNDING * curve.max()))
    rest = curve[low:] / curve.max()
    climb = rest.max() - rest[0]
    if climb <= CLIMB:
        return None
    observed = f"the LR falls to {rest[0]:.0%} of its peak at step {first + low} of {total} and climbs again, "
    observed += f"to {rest.max():.0%}"
    is_restart = _is_restart(curves.beyond / curve.max(), peak, low) or curves.scheduler_names & set(CYCLIC_SCHEDULERS)
    hint = "Give the scheduler the number of steps of the run, not of an epoch (T_max), or advance it once per epoch"
    return (passed if is_restart else failed)("schedule", observed, "an LR that falls until the end of the run", hint)


def _is_restart(beyond: np.ndarray, peak: int, low: int) -> bool:
    """Return whether the climb from `low` is one that somebody wrote: a jump, a short warm-up, or a straight line."""
    changes = np.diff(beyond[low:])
    is_down = changes < -ROUNDING
    climb = changes[: int(is_down.argmax())] if is_down.any() else changes
    climb = climb[climb > ROUNDING]
    height = climb.sum()
    if not len(climb) or len(climb) < RESTART_SHARE * (low - peak) or climb.max() > 0.5 * height:
        return True
    inner = climb[1:-1]  # the turning points may lie between two steps
    return len(inner) > 1 and np.ptp(inner) <= TOLERANCE * inner.max()


def ends_with_run(curves: LRCurves, total: int) -> bool:
    """Return whether the decay ends with the run, as that of a linear or cosine schedule made for its steps.

    One that counts epochs ends elsewhere, in a few jumps, or never, as an exponential decay does.
    """
    if curves.beyond is None or curves.highest.max() <= 0:
        return False
    beyond, first = np.abs(curves.beyond) / curves.highest.max(), int(curves.steps[0])
    peak = int(np.argmax(beyond >= 1 - ROUNDING))
    end = int(np.argmax(beyond[peak:] <= beyond[peak:].min() + ROUNDING)) + peak
    fall = 1 - beyond[end]
    decay = beyond[peak : end + 1]
    if fall < 0.5 or not 0.9 * total - 1 <= end + first <= 1.1 * total or len(decay) < MIN_DECAY_STEPS:
        return False
    is_late = beyond[peak + 3 * (end - peak) // 4] - beyond[end] > LATE_SHARE * fall
    changes = np.diff(decay)
    return bool(is_late and changes.max() <= ROUNDING and -changes.min() < MAX_JUMP * fall)


def _find_small_decay(curve: np.ndarray, total: int) -> Finding | None:
    """Find an LR that falls over the whole run but hardly does, as with the length of another run."""
    falling = curve[curve.argmax() :] / curve.max()
    fall = 1 - falling[-1]
    if not (0 < fall < SMALL_DECAY and len(falling) > 0.5 * len(curve) and (np.diff(falling) <= 0).all()):
        return None
    observed = f"the LR falls by only {fall:.2g} of its peak after the warm-up, over the {total} steps of the run"
    hint = "The schedule was made for a longer run: check the steps given to it (lr_decay_iters, num_training_steps)"
    return warned("schedule", observed, "a decay that ends with the run, or none", hint)


def _check_length(total: int, curves: LRCurves) -> Finding:
    """Check where an unknown schedule reaches its lowest LR."""
    title, hint = "schedule", "Check the number of steps given to the scheduler"
    curve, beyond, first = curves.highest, curves.beyond, int(curves.steps[0])
    last = curve[-1] / curve.max()
    final = passed(title, f"LR at {last:.0%} of its peak in the last of {total} steps")
    if beyond is None or curve.min() == curve.max():
        return final
    after_peak = int(np.argmax(curve >= (1 - ROUNDING) * curve.max()))
    height = np.abs(beyond[after_peak:]) / curve.max()
    if height.max() - height.min() <= ROUNDING:
        return passed(title, f"LR at its peak from step {first + after_peak} on")
    lowest = after_peak + int(np.argmax(height <= height.min() + ROUNDING))
    end = first + lowest
    observed = f"the LR reaches its minimum, {abs(beyond[lowest]):.2g}, at step {end} of {total}"
    if lowest == len(beyond) - 1:  # still falling at the end of the simulation
        return final
    if end < 0.9 * total:
        is_zero = np.abs(curve[lowest:]).max() <= ROUNDING * curve.max()
        return (failed if is_zero else warned)(title, observed, "at the end of the run", hint)
    if end > 1.1 * total and last > 0.1:
        return warned(title, f"{observed}, which ends at {last:.0%} of the peak", "at the end of the run", hint)
    return final
