"""What is asked for is what runs: learning rates, lengths, batch and decay, read from the optimizer."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from harness.preflight.report import Finding
from harness.preflight.training_setup import RequestedSettings, TrainingSetup

CLOSE = 0.01
"""Share by which an LR may miss what was asked for."""
ROUNDING = 1e-6
"""Of the peak."""
HORIZON, LONGEST = 4, 20_000
"""Lengths of the run over which a scheduler is rehearsed, in ticks at most LONGEST beyond the run."""
TAKEN = 2
"""Real steps in which the scheduler's ticks are counted."""
FACTORS = range(2, 65)
"""Times a scheduler may have been stepped too often."""


@dataclass(frozen=True)
class LRCurves:
    """The LR of each group in the updates that follow `steps`; `beyond` is that of the leading one, run and after."""

    steps: np.ndarray
    groups: Mapping[str, np.ndarray]
    beyond: np.ndarray | None = None

    @property
    def highest(self) -> np.ndarray:
        """Of the group whose LR is highest."""
        return max(self.groups.values(), key=np.max)


def check(subject: TrainingSetup) -> Iterator[Finding]:
    """Learning rates and their course, what a step ticks, examples a step, decay, when a plateau can act."""
    ticks = _count_scheduler_steps(subject)
    if not (subject.lrs or subject.optimizer_list):
        yield Finding("not checked", "learning rates", "", "needs the optimizer, and the schedule where there is one")
    elif subject.asked.total_steps is None and (subject.lrs or subject.schedule):
        yield Finding("not checked", "learning rates", "", "needs asked.total_steps, the length of the run")
    elif ticks == 0 and subject.lrs is None:
        needs = "needs a scheduler stepped by each step; this one is not, and the end of an epoch is not seen here"
        yield Finding("not checked", "learning rates", "", needs)
    else:
        rates = read_lr_curves(subject)
        yield from _check_peak_lr(subject.asked, rates)
        if rates.highest.max() > 0:
            yield from _check_warmup(subject.asked, rates)
            yield from _check_schedule(subject.asked, rates)
    yield from _check_scheduler_steps(subject, ticks)
    yield from _check_batch_size(subject)
    yield from _check_weight_decay(subject)
    yield from _check_plateau_patience(subject)


def read_lr_curves(subject: TrainingSetup) -> LRCurves:
    """From `lrs` at the steps that matter, or of every step by letting the scheduler tick without training."""
    with subject.preserved_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a scheduler's, that no update comes before its tick
        if subject.lrs is None:
            return _simulate_scheduler(subject)
        total, warmup = subject.asked.total_steps or 1, round(subject.asked.warmup_steps or 0)
        wanted = {0, warmup // 2, warmup - 1, warmup, total // 4, total // 2, 3 * total // 4, total - 1}
        steps = sorted(step for step in wanted if 0 <= step < total)
        read = [subject.lrs(step) for step in steps]
        return LRCurves(np.array(steps), {name: np.array([lrs[name] for lrs in read]) for name in read[0]})


def _simulate_scheduler(subject: TrainingSetup) -> LRCurves:
    total, schedule = subject.asked.total_steps or 1, subject.schedule
    moves = schedule is not None and not _is_plateau_schedule(schedule)
    ticks = min(HORIZON * total, total + LONGEST) if moves else total
    read = [_read_group_lrs(subject)]
    for _ in range(ticks - 1 if moves else 0):
        try:
            schedule.step()
        except ValueError:  # one that knows its length goes no further
            break
        read.append(_read_group_lrs(subject))
    if not moves:
        read *= total
    curves = {name: np.array([lrs[name] for lrs in read]) for name in read[0]}
    beyond = max(curves.values(), key=np.max) if moves else None
    steps = np.arange(min(total, len(read)))
    return LRCurves(steps, {name: curve[: len(steps)] for name, curve in curves.items()}, beyond)


def _check_peak_lr(asked: RequestedSettings, rates: LRCurves) -> Iterator[Finding]:
    if asked.lr is None:
        yield Finding("not checked", "peak LR", "", "needs asked.lr")
        return
    height = 1.0 if asked.multiplier is None else max(asked.multiplier(int(step)) for step in rates.steps)
    told, factors = [], []
    for name, curve in rates.groups.items():
        peak = asked.lr.get(name) if isinstance(asked.lr, Mapping) else asked.lr
        if peak:
            factor = curve.max() / (peak * height)
            factors.append(factor)
            told.append(f"{curve.max():.3g} at step {rates.steps[curve.argmax()]} in {name}")
            if abs(factor - 1) > CLOSE:
                told[-1] += f", x{factor:.3g} of what was asked for"
    wrong = [factor for factor in factors if abs(factor - 1) > CLOSE]
    expected = f"{_format_numbers(asked.lr)}, reached and not passed"
    look_at = "what else multiplies it, such as the number of devices or the batch; a cap; a peak of each group's own"
    if wrong and max(wrong) < 1:
        look_at = "a warm-up that the run does not come to the end of, or a cap; peaks of groups by name in asked.lr"
    yield Finding("fail" if wrong else "pass", "peak LR", "; ".join(told), expected, look_at if wrong else "")


def _check_warmup(asked: RequestedSettings, rates: LRCurves) -> Iterator[Finding]:
    """Where the LR first comes to its peak."""
    wanted = asked.warmup_steps
    if not wanted:
        return
    if round(wanted) == 0:
        yield Finding(
            "warn", "warm-up", f"{wanted:.3g} steps, which is none", "1 step or more", "schedule.warmup_steps"
        )
        return
    curve = rates.highest
    reached = int(rates.steps[np.argmax(curve >= (1 - CLOSE) * curve.max())])
    seen = f"the LR is at {curve[0] / curve.max():.0%} of its peak at step 0, and at its peak from step {reached} on"
    expected = f"a warm-up of {wanted:.4g} steps"
    if wanted >= 1.5 and reached == 0:
        look_at = "the share as a whole number, such as int(0.1), and whether the schedule is given the warm-up"
        yield Finding("fail", "warm-up", "0 steps: the LR is at its peak in the first", expected, look_at)
    elif not 0.75 * wanted - 2 <= reached <= 1.25 * wanted + 1:
        yield Finding("fail", "warm-up", seen, expected, "the length that its share is taken of")
    else:
        yield Finding("pass", "warm-up", seen, expected)


def _check_schedule(asked: RequestedSettings, rates: LRCurves) -> Iterator[Finding]:
    """The whole curve, peaks and all else aside."""
    if asked.total_steps is None:
        yield Finding("not checked", "schedule", "", "needs asked.total_steps")
        return
    curve = rates.highest
    if asked.multiplier is None:
        yield from _check_schedule_length(asked.total_steps, curve, rates.beyond)
        return
    seen = curve / curve.max()
    meant = np.array([asked.multiplier(int(step)) for step in rates.steps])
    meant = meant / meant.max()
    off = np.abs(seen - meant)
    at = int(off.argmax())
    told = ", ".join(
        f"{seen[index]:.0%} at step {rates.steps[index]}" for index in _end_and_middle_indices(rates.steps)
    )
    expected = f"the schedule asked for over the {asked.total_steps} steps of the run"
    if off[at] <= CLOSE:
        yield Finding("pass", "schedule", f"{told} of the peak", expected)
        return
    step = int(rates.steps[at])
    wrong = f"{seen[at]:.0%} of the peak at step {step}, where {meant[at]:.0%} is asked for"
    for factor in FACTORS:
        hurried = np.array([asked.multiplier(int(factor * step)) for step in rates.steps])
        if np.abs(seen - hurried / meant.max())[rates.steps * factor < asked.total_steps].max() <= CLOSE:
            wrong += f", as if stepped {factor} times a step"
            break
    yield Finding("fail", "schedule", wrong, expected, "the length that the schedule is given, and who steps it")


def _check_schedule_length(total: int, curve: np.ndarray, beyond: np.ndarray | None) -> Iterator[Finding]:
    """Where a scheduler comes to its end, when nobody says what it should be."""
    what, look_at = "schedule", "the number of steps that the scheduler is given"
    last = curve[-1] / curve.max()
    if beyond is None or curve.min() == curve.max():
        yield Finding("pass", what, f"the LR is {last:.0%} of its peak in the last of {total} steps")
        return
    after_peak = int(np.argmax(curve >= (1 - ROUNDING) * curve.max()))
    height = np.abs(beyond[after_peak:]) / curve.max()
    if height.max() - height.min() <= ROUNDING:
        yield Finding("pass", what, f"the LR stays at its peak from step {after_peak} on")
        return
    end = after_peak + int(np.argmax(height <= height.min() + ROUNDING))
    is_known = end < len(beyond) - 1
    told = f"the LR comes to its lowest, {abs(beyond[end]):.2g}, at step {end} of {total}"
    if is_known and end < 0.9 * total:
        is_over = np.abs(curve[end:]).max() <= ROUNDING * curve.max()
        yield Finding("fail" if is_over else "warn", what, told, "at the end of the run", look_at)
    elif is_known and end > 1.1 * total and last > 0.1:
        yield Finding("warn", what, f"{told}, which ends at {last:.0%} of the peak", "at the end of the run", look_at)
    else:
        yield Finding("pass", what, f"the LR is {last:.0%} of its peak in the last of {total} steps")


def _count_scheduler_steps(subject: TrainingSetup) -> float | None:
    """How often a step steps the scheduler; None where there is no step or nothing that ticks."""
    schedule = subject.schedule
    if schedule is None or subject.step is None or _is_plateau_schedule(schedule):
        return None
    with subject.preserved_state():
        before = schedule.last_epoch
        for index in range(TAKEN):
            subject.step(subject.batches[index % len(subject.batches)])
        return (schedule.last_epoch - before) / TAKEN


def _check_scheduler_steps(subject: TrainingSetup, ticks: float | None) -> Iterator[Finding]:
    if ticks is None:
        if subject.schedule is not None and not _is_plateau_schedule(subject.schedule):
            yield Finding("not checked", "scheduler's ticks", "", "needs the step that training takes")
        return
    total, seen = subject.asked.total_steps, f"{ticks:g} a step"
    if ticks > 1:
        seen += f", so the schedule is over at step {total / ticks:.0f} of {total}" if total else ""
        look_at = "scheduler.step() in the loop over micro-batches, or in two places"
        yield Finding("fail", "scheduler's ticks", seen, "1 a step", look_at)
    elif ticks < 1:
        look_at = "whether something else steps it, such as the end of an epoch"
        yield Finding("warn", "scheduler's ticks", f"{seen}, so that the LR stays as it is", "1 a step", look_at)
    else:
        yield Finding("pass", "scheduler's ticks", seen, "1 a step")


def _check_batch_size(subject: TrainingSetup) -> Iterator[Finding]:
    asked, seen = subject.asked.batch_size, subject.batch_size
    if asked is None or seen is None:
        yield Finding("not checked", "batch size", "", "needs asked.batch_size and batch_size, over all devices")
        return
    told = f"{seen} examples a step, over all devices"
    if seen != asked:
        look_at = f"devices and accumulation: it is x{seen / asked:.3g}"
        yield Finding("fail", "batch size", told, str(asked), look_at)
    else:
        yield Finding("pass", "batch size", told, str(asked))


def _check_weight_decay(subject: TrainingSetup) -> Iterator[Finding]:
    asked = subject.asked.weight_decay
    if asked is None or not subject.optimizer_list:
        return
    seen = {name: float(group.get("weight_decay", 0.0)) for name, group in _named_param_groups(subject)}
    wrong = {name: decay for name, decay in seen.items() if name in asked and decay != asked[name]}
    missing = [name for name in asked if name not in seen]
    expected = _format_numbers(asked)
    if wrong or missing:
        told = _format_numbers(wrong) if wrong else f"no group named {', '.join(missing)}"
        yield Finding("fail", "weight decay", told, expected, "the groups that the optimizer is given")
    else:
        yield Finding("pass", "weight decay", _format_numbers(seen), expected)


def _check_plateau_patience(subject: TrainingSetup) -> Iterator[Finding]:
    """The earliest step at which a schedule that waits for a plateau can act."""
    asked = subject.asked
    patience = subject.schedule.patience if _is_plateau_schedule(subject.schedule) else asked.patience
    if patience is None:
        return
    if not (asked.evals and asked.total_steps):
        yield Finding("not checked", "plateau", f"a patience of {patience}", "needs asked.evals and asked.total_steps")
        return
    period, needed = asked.total_steps / asked.evals, patience + 2  # one that is best, and more than patience others
    told = f"it can act after {needed} evaluations, step {round(period * needed)}, at the earliest; the run has"
    told += f" {asked.evals} in {asked.total_steps} steps"
    if needed > asked.evals:
        yield Finding("warn", "plateau", told, "a cut within the run", "a lower patience, or evaluating more often")
    else:
        yield Finding("pass", "plateau", told)


def _is_plateau_schedule(schedule: Any) -> bool:
    return hasattr(schedule, "patience")


def _named_param_groups(subject: TrainingSetup) -> list[tuple[str, dict[str, Any]]]:
    groups = chain.from_iterable(optimizer.param_groups for optimizer in subject.optimizer_list)
    return [(group.get("name", f"group{index}"), group) for index, group in enumerate(groups)]


def _read_group_lrs(subject: TrainingSetup) -> dict[str, float]:
    return {name: float(group["lr"]) for name, group in _named_param_groups(subject)}


def _end_and_middle_indices(steps: np.ndarray) -> list[int]:
    return sorted({0, len(steps) // 2, len(steps) - 1})


def _format_numbers(of: float | Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in of.items()) if isinstance(of, Mapping) else f"{of:.3g}"
