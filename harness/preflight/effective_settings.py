"""Check that learning rates, schedule, batch size and weight decay in effect are those requested.

They are read from the optimizer, not from the configuration.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from harness.preflight.report import Finding, failed, passed, passed_if, skipped, warned
from harness.preflight.training_setup import RequestedSettings, TrainingSetup

TOLERANCE = 0.01  # relative error of an LR
ROUNDING = 1e-6  # relative to the peak
# A scheduler is simulated for this many times the length of the run, at most MAX_EXTRA_STEPS beyond it.
HORIZON, MAX_EXTRA_STEPS = 4, 20_000
COUNTED_STEPS = 2  # training steps in which the scheduler's steps are counted
SPEEDUPS = range(2, 65)  # candidates for the number of scheduler steps per training step


@dataclass(frozen=True)
class LRCurves:
    """LR of each parameter group in the updates after `steps` completed ones.

    `beyond` is the curve with the highest LR, from the first step to beyond the run's end, if it was simulated.
    """

    steps: np.ndarray
    groups: Mapping[str, np.ndarray]
    beyond: np.ndarray | None = None

    @property
    def highest(self) -> np.ndarray:
        """The curve of the group with the highest LR."""
        return max(self.groups.values(), key=np.max)


def check(setup: TrainingSetup) -> Iterator[Finding]:
    requested, scheduler_steps = setup.requested, _count_scheduler_steps(setup)
    if not (setup.lrs_at or setup.optimizer_list):
        yield skipped("learning rates", "needs `optimizer`, and `scheduler` if there is one")
    elif requested.total_steps is None and (setup.lrs_at or setup.scheduler):
        yield skipped("learning rates", "needs `requested.total_steps`, the length of the run")
    elif scheduler_steps == 0 and setup.lrs_at is None:
        reason = "needs a scheduler that each training step advances; one advanced per epoch cannot be followed here"
        yield skipped("learning rates", reason)
    else:
        curves = read_lr_curves(setup)
        yield from _check_peak_lr(requested, curves)
        if curves.highest.max() > 0:
            yield from _check_warmup(requested, curves)
            yield from _check_schedule(requested, curves)
    yield from _check_scheduler_steps(setup, scheduler_steps)
    yield _check_batch_size(setup)
    yield from _check_weight_decay(setup)
    yield from _check_plateau_patience(setup)


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
    total, scheduler = setup.requested.total_steps or 1, setup.scheduler
    lrs, beyond = [_read_group_lrs(setup)], None
    if scheduler is None or _is_plateau_scheduler(scheduler):
        lrs *= total
    else:
        for _ in range(min(HORIZON * total, total + MAX_EXTRA_STEPS) - 1):
            try:
                scheduler.step()
            except ValueError:  # OneCycleLR ends at its own length
                break
            lrs.append(_read_group_lrs(setup))
    curves = {name: np.array([read[name] for read in lrs]) for name in lrs[0]}
    if scheduler is not None and not _is_plateau_scheduler(scheduler):
        beyond = max(curves.values(), key=np.max)
    steps = np.arange(min(total, len(lrs)))
    return LRCurves(steps, {name: curve[: len(steps)] for name, curve in curves.items()}, beyond)


def _check_peak_lr(requested: RequestedSettings, curves: LRCurves) -> Iterator[Finding]:
    if requested.lr is None:
        yield skipped("peak LR", "needs `requested.lr`")
        return
    multiplier, observed, wrong = requested.lr_multiplier, [], []
    height = 1.0 if multiplier is None else max(multiplier(int(step)) for step in curves.steps)
    for name, curve in curves.groups.items():
        peak = requested.lr.get(name) if isinstance(requested.lr, Mapping) else requested.lr
        if peak:
            ratio = curve.max() / (peak * height)
            observed.append(f"{curve.max():.3g} at step {curves.steps[curve.argmax()]} in {name}")
            if abs(ratio - 1) > TOLERANCE:
                observed[-1] += f", x{ratio:.3g} of what was requested"
                wrong.append(ratio)
    hint = "Look for what else multiplies the LR: the number of devices, the batch size, caps, peaks per group"
    if wrong and max(wrong) < 1:
        hint = "Look for a warm-up longer than the run, or a cap; `requested.lr` may hold peaks by group"
    yield passed_if(not wrong, "peak LR", "; ".join(observed), f"{_format_numbers(requested.lr)} at the peak", hint)


def _check_warmup(requested: RequestedSettings, curves: LRCurves) -> Iterator[Finding]:
    """Check when the LR first reaches its peak."""
    wanted = requested.warmup_steps
    if not wanted:
        return
    if round(wanted) == 0:
        yield warned("warm-up", f"{wanted:.3g} steps, rounded to none", "1 step or more", "Set schedule.warmup_steps")
        return
    curve = curves.highest
    reached = int(curves.steps[np.argmax(curve >= (1 - TOLERANCE) * curve.max())])
    expected = f"a warm-up of {wanted:.4g} steps"
    if wanted >= 1.5 and reached == 0:
        hint = (
            "Look for a share converted to an integer, such as int(0.1); check that the schedule receives the warm-up"
        )
        yield failed("warm-up", "0 steps: the LR starts at its peak", expected, hint)
        return
    observed = f"LR at {curve[0] / curve.max():.0%} of its peak at step 0, at its peak from step {reached} on"
    is_close = 0.75 * wanted - 2 <= reached <= 1.25 * wanted + 1
    yield passed_if(is_close, "warm-up", observed, expected, "Check the length of the run that the share refers to")


def _check_schedule(requested: RequestedSettings, curves: LRCurves) -> Iterator[Finding]:
    """Compare the shape of the curve, relative to its peak, with the requested one."""
    total, multiplier = requested.total_steps, requested.lr_multiplier
    if total is None:
        yield skipped("schedule", "needs `requested.total_steps`")
        return
    curve, steps = curves.highest, curves.steps
    if multiplier is None:
        yield _check_schedule_length(total, curve, curves.beyond)
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


def _check_schedule_length(total: int, curve: np.ndarray, beyond: np.ndarray | None) -> Finding:
    """Check where an unknown schedule reaches its lowest LR."""
    title, hint = "schedule", "Check the number of steps given to the scheduler"
    last = curve[-1] / curve.max()
    final = passed(title, f"LR at {last:.0%} of its peak in the last of {total} steps")
    if beyond is None or curve.min() == curve.max():
        return final
    after_peak = int(np.argmax(curve >= (1 - ROUNDING) * curve.max()))
    height = np.abs(beyond[after_peak:]) / curve.max()
    if height.max() - height.min() <= ROUNDING:
        return passed(title, f"LR at its peak from step {after_peak} on")
    end = after_peak + int(np.argmax(height <= height.min() + ROUNDING))
    observed = f"the LR reaches its minimum, {abs(beyond[end]):.2g}, at step {end} of {total}"
    if end == len(beyond) - 1:  # still falling at the end of the simulation
        return final
    if end < 0.9 * total:
        is_zero = np.abs(curve[end:]).max() <= ROUNDING * curve.max()
        return (failed if is_zero else warned)(title, observed, "at the end of the run", hint)
    if end > 1.1 * total and last > 0.1:
        return warned(title, f"{observed}, which ends at {last:.0%} of the peak", "at the end of the run", hint)
    return final


def _count_scheduler_steps(setup: TrainingSetup) -> float | None:
    """Return how often a training step advances the scheduler, or None if either is missing."""
    scheduler = setup.scheduler
    if scheduler is None or setup.train_step is None or _is_plateau_scheduler(scheduler):
        return None
    with setup.preserved_state():
        before = scheduler.last_epoch
        for index in range(COUNTED_STEPS):
            setup.train_step(setup.batches[index % len(setup.batches)])
        return (scheduler.last_epoch - before) / COUNTED_STEPS


def _check_scheduler_steps(setup: TrainingSetup, scheduler_steps: float | None) -> Iterator[Finding]:
    title, expected, total = "scheduler steps", "1 per training step", setup.requested.total_steps
    observed = f"{scheduler_steps:g} per training step" if scheduler_steps is not None else ""
    if scheduler_steps is None:
        if setup.scheduler is not None and not _is_plateau_scheduler(setup.scheduler):
            yield skipped(title, "needs `train_step`")
    elif scheduler_steps > 1:
        observed += f", so the schedule ends at step {total / scheduler_steps:.0f} of {total}" if total else ""
        hint = "Look for scheduler.step() inside the loop over micro-batches, or in two places"
        yield failed(title, observed, expected, hint)
    elif scheduler_steps < 1:
        hint = "Look for what else advances the scheduler, such as the end of an epoch"
        yield warned(title, f"{observed}, so the LR does not change", expected, hint)
    else:
        yield passed(title, observed, expected)


def _check_batch_size(setup: TrainingSetup) -> Finding:
    requested, actual = setup.requested.batch_size, setup.batch_size
    if requested is None or actual is None:
        return skipped("batch size", "needs `requested.batch_size` and `batch_size`, over all devices")
    observed = f"{actual} examples per step over all devices"
    hint = f"Check the number of devices and accumulation steps: it is x{actual / requested:.3g} of what was requested"
    return passed_if(actual == requested, "batch size", observed, str(requested), hint)


def _check_weight_decay(setup: TrainingSetup) -> Iterator[Finding]:
    requested = setup.requested.weight_decay
    if requested is None or not setup.optimizer_list:
        return
    actual = {name: float(group.get("weight_decay", 0.0)) for name, group in _named_param_groups(setup)}
    wrong = {name: decay for name, decay in actual.items() if name in requested and decay != requested[name]}
    missing = [name for name in requested if name not in actual]
    observed = _format_numbers(wrong or actual)
    if missing and not wrong:
        observed = f"no group named {', '.join(missing)}"
    hint = "Look at the parameter groups given to the optimizer"
    yield passed_if(not (wrong or missing), "weight decay", observed, _format_numbers(requested), hint)


def _check_plateau_patience(setup: TrainingSetup) -> Iterator[Finding]:
    """Check that a schedule that waits for a plateau can act within the run."""
    requested = setup.requested
    patience = getattr(setup.scheduler, "patience", requested.patience)
    if patience is None:
        return
    if not (requested.evals and requested.total_steps):
        reason = f"patience of {patience}; needs `requested.evals` and `requested.total_steps`"
        yield skipped("plateau", reason)
        return
    needed = patience + 2  # the best evaluation, and more than `patience` others
    first_step = round(requested.total_steps / requested.evals * needed)
    observed = f"first possible LR cut after {needed} evaluations, at step {first_step}; "
    observed += f"the run has {requested.evals} in {requested.total_steps} steps"
    result = passed if needed <= requested.evals else warned
    yield result("plateau", observed, "a cut within the run", "Lower the patience, or evaluate more often")


def _is_plateau_scheduler(scheduler: Any) -> bool:
    return hasattr(scheduler, "patience")


def _named_param_groups(setup: TrainingSetup) -> list[tuple[str, dict[str, Any]]]:
    groups = chain.from_iterable(optimizer.param_groups for optimizer in setup.optimizer_list)
    return [(group.get("name", f"group{index}"), group) for index, group in enumerate(groups)]


def _read_group_lrs(setup: TrainingSetup) -> dict[str, float]:
    return {name: float(group["lr"]) for name, group in _named_param_groups(setup)}


def _format_numbers(values: float | Mapping[str, float]) -> str:
    if isinstance(values, Mapping):
        return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    return f"{values:.3g}"
