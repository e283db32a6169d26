"""Check that learning rates, schedule, batch size and weight decay in effect are those requested.

They are read from the optimizer, not from the configuration.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harness.preflight.lr_curves import (
    TOLERANCE,
    LRCurves,
    check_schedule,
    find_first_step,
    read_group_lrs,
    read_lr_curves,
)
from harness.preflight.probe import is_plateau_scheduler, named_param_groups
from harness.preflight.report import Finding, failed, passed, passed_if, skipped, warned
from harness.preflight.training_setup import RequestedSettings, TrainingSetup

MAX_FOREIGN_STEPS = 1000  # of a scheduler until its LR changes
COUNTED_STEPS = 2  # training steps in which the scheduler's steps are counted


def check(setup: TrainingSetup) -> Iterator[Finding]:
    requested = setup.requested
    scheduler_steps, moving_groups = _count_scheduler_steps(setup)
    if foreign := _find_foreign_scheduler(setup):
        yield foreign
    if not (setup.lrs_at or setup.optimizer_list):
        yield skipped("learning rates", "needs `optimizer`, and `scheduler` if there is one")
    elif requested.total_steps is None and (setup.lrs_at or setup.scheduler):
        yield skipped("learning rates", "needs `requested.total_steps`, the length of the run")
    elif scheduler_steps == 0 and setup.lrs_at is None:
        yield _judge_unused_scheduler(setup)
        scheduler_steps = None
    else:
        curves = read_lr_curves(setup)
        yield from _check_group_schedules(setup, curves, moving_groups)
        if not find_first_step(setup):
            yield from _check_peak_lr(requested, curves)
        if curves.highest.max() > 0:
            if not find_first_step(setup):
                yield from _check_warmup(requested, curves)
            yield from check_schedule(requested, curves)
    yield from _check_scheduler_steps(setup, scheduler_steps)
    yield _check_batch_size(setup)
    yield from _check_weight_decay(setup)
    yield from _check_plateau_patience(setup)


def _find_foreign_scheduler(setup: TrainingSetup) -> Finding | None:
    """Find a scheduler that changes the LR of an optimizer that does not train, and none of those that do."""
    own = {id(group) for _, group in named_param_groups(setup)}
    for scheduler in setup.scheduler_list:
        owner: Any = getattr(scheduler, "optimizer", None)
        groups = [group for group in getattr(owner, "param_groups", ()) if id(group) not in own]
        if not groups or len(groups) < len(owner.param_groups) or is_plateau_scheduler(scheduler) or not own:
            continue
        kept = [group["lr"] for group in groups]
        with setup.preserved_state(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns if a scheduler's step does not follow an update
            before = read_group_lrs(setup)
            for _ in range(min(setup.requested.total_steps or 1, MAX_FOREIGN_STEPS)):
                scheduler.step()
                if [group["lr"] for group in groups] != kept:
                    break
            is_foreign = [group["lr"] for group in groups] != kept and read_group_lrs(setup) == before
        if is_foreign:
            observed = f"it changes the LR of another {type(owner).__name__}, not of the one that trains"
            hint = "Make the scheduler from the optimizer that trains, after that is made for the last time"
            return failed("optimizer of the scheduler", observed, "the same optimizer", hint)
    return None


def _check_peak_lr(requested: RequestedSettings, curves: LRCurves) -> Iterator[Finding]:
    if requested.lr is None:
        yield skipped("peak LR", "needs `requested.lr`")
        return
    multiplier, observed, wrong = requested.lr_multiplier, [], []
    height = 1.0 if multiplier is None else max(multiplier(int(step)) for step in curves.steps)
    # A warm-up that is multiplied with a decay peaks a little lower.
    warmup_share = (requested.warmup_steps or 0) / max(1, requested.total_steps or 1)
    lowest = 1 - TOLERANCE - (min(warmup_share, 0.5) if multiplier is None else 0.0)
    highest_peak = curves.highest.max()
    for name, curve in curves.groups.items():
        peak = requested.lr.get(name) if isinstance(requested.lr, Mapping) else requested.lr
        if not isinstance(requested.lr, Mapping) and curve.max() < highest_peak:
            continue  # lower LRs of some groups, such as earlier layers, are a choice
        if peak:
            ratio = curve.max() / (peak * height)
            observed.append(f"{curve.max():.3g} at step {curves.steps[curve.argmax()]} in {name}")
            if not lowest <= ratio <= 1 + TOLERANCE:
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


def _check_group_schedules(setup: TrainingSetup, curves: LRCurves, moving_groups: set[str]) -> Iterator[Finding]:
    """Find parameter groups that no scheduler was made for, while those of another optimizer follow one."""
    if setup.lrs_at is not None or not setup.scheduler_list:
        return
    is_flat = {name: curve.min() == curve.max() for name, curve in curves.groups.items()}
    has_own = {name: "initial_lr" in group for name, group in named_param_groups(setup)}
    outside = [name for name, flat in is_flat.items() if flat and not has_own[name] and name not in moving_groups]
    if outside and not all(is_flat.values()):
        observed = (
            f"{', '.join(outside)} stays at LR {curves.groups[outside[0]][0]:.3g} while the others follow a schedule"
        )
        hint = "Make a scheduler for each optimizer, and list all of them"
        yield failed("groups outside the schedule", observed, "none", hint)


def _count_scheduler_steps(setup: TrainingSetup) -> tuple[float | None, set[str]]:
    """Return (scheduler steps per training step, the groups whose LR these change).

    The number is that of the scheduler with the most, or None if there is none or no `train_step`.
    """
    schedulers = [each for each in setup.scheduler_list if not is_plateau_scheduler(each)]
    if not schedulers or setup.train_step is None:
        return None, set()
    with setup.preserved_state():
        before, lrs = [each.last_epoch for each in schedulers], read_group_lrs(setup)
        for index in range(COUNTED_STEPS):
            setup.run_user_code("train_step", setup.batches[index % len(setup.batches)])
        after = read_group_lrs(setup)
        counts = [(each.last_epoch - start) / COUNTED_STEPS for each, start in zip(schedulers, before, strict=True)]
    return max(counts), {name for name, lr in after.items() if lr != lrs[name]}


def _judge_unused_scheduler(setup: TrainingSetup) -> Finding:
    """Judge a scheduler that no step advances: one that counts steps fails, one that may count epochs warns."""
    total, curve = setup.requested.total_steps or 1, read_lr_curves(setup).highest
    observed, expected = "no training step advances it, so the LR does not change", "1 step per training step"
    rest = curve[curve.argmax() :]
    counts_steps = len(rest) > 1 and rest[-1] < 0.5 * rest[0] and rest.argmin() >= 0.9 * len(rest) - 1
    if counts_steps and (np.diff(rest[: int(rest.argmin())]) <= 0).all():
        hint = "Call scheduler.step() after each optimizer.step(), inside `train_step`"
        return failed("scheduler steps", f"{observed}; it was made for {total} steps", expected, hint)
    hint = "Look for what else advances the scheduler, such as the end of an epoch"
    return warned("scheduler steps", observed, expected, hint)


def _check_scheduler_steps(setup: TrainingSetup, scheduler_steps: float | None) -> Iterator[Finding]:
    title, expected, total = "scheduler steps", "1 per training step", setup.requested.total_steps
    if scheduler_steps is None:
        if setup.train_step is None and any(not is_plateau_scheduler(each) for each in setup.scheduler_list):
            yield skipped(title, "needs `train_step`")
        return
    observed = f"{scheduler_steps:g} per training step"
    if scheduler_steps > 1:
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
    actual = {name: float(group.get("weight_decay", 0.0)) for name, group in named_param_groups(setup)}
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
    given = [scheduler.patience for scheduler in list[Any](setup.scheduler_list) if is_plateau_scheduler(scheduler)]
    patience = given[0] if given else requested.patience
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


def _format_numbers(values: float | Mapping[str, float]) -> str:
    if isinstance(values, Mapping):
        return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    return f"{values:.3g}"
