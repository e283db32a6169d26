"""Check that learning rates, schedule, batch size and weight decay in effect are those requested.

They are read from the optimizer, not from the configuration.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.preflight.lr_curves import (
    TOLERANCE,
    LRCurves,
    check_schedule,
    ends_with_run,
    find_first_step,
    read_group_lrs,
    read_lr_curves,
)
from harness.preflight.probe import affordable_repeats, is_plateau_scheduler, named_param_groups
from harness.preflight.report import Finding, UserCodeError, failed, passed, passed_if, skipped, warned
from harness.preflight.setup_values import RequestedSettings
from harness.preflight.training_setup import TrainingSetup

MAX_FOREIGN_STEPS = 1000  # of a scheduler until its LR changes
COUNTED_STEPS = 2  # updates in which the scheduler's steps are counted
MAX_CALLS = 32  # of `train_step` until it makes an update, as accumulation may run over several calls


@dataclass(frozen=True)
class _TakenSteps:
    """Result of a few calls of `train_step`: updates of an optimizer, and steps of each scheduler for each update.

    `lrs` holds the LRs of each group at the start and after each call.
    """

    calls: int
    updates: int
    scheduler_steps: Mapping[Any, float]
    lrs: Sequence[Mapping[str, float]]

    @property
    def most_scheduler_steps(self) -> float | None:
        """Steps per update of the scheduler with the most, or None without schedulers."""
        return max(self.scheduler_steps.values(), default=None)

    @property
    def moving_groups(self) -> set[str]:
        return {name for name, lr in self.lrs[-1].items() if any(read[name] != lr for read in self.lrs)}


def check(setup: TrainingSetup) -> Iterator[Finding]:
    requested = setup.requested
    taken = _take_steps(setup)
    scheduler_steps = taken.most_scheduler_steps if taken else None
    if foreign := _find_foreign_scheduler(setup):
        yield foreign
    if not (setup.lrs_at or setup.optimizer_list):
        yield skipped("learning rates", "needs `optimizer`, and `scheduler` if there is one")
    elif setup.lrs_at is None and taken and (reason := _describe_unknown_lrs(taken)):
        yield skipped("learning rates", reason)
        scheduler_steps = scheduler_steps or None
    elif requested.total_steps is None and (setup.lrs_at or setup.scheduler):
        yield skipped("learning rates", "needs `requested.total_steps`, the length of the run")
    elif scheduler_steps == 0 and setup.lrs_at is None:
        yield _judge_unused_scheduler(setup)
        scheduler_steps = None
    else:
        curves = read_lr_curves(setup)
        yield from _check_group_schedules(setup, curves, taken.moving_groups if taken else set())
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
    multiplier, observed, ratios = requested.lr_multiplier, [], []
    height = 1.0 if multiplier is None else max(multiplier(int(step)) for step in curves.steps)
    # A warm-up that is multiplied with a decay peaks a little lower.
    warmup_share = (requested.warmup_steps or 0) / max(1, requested.total_steps or 1)
    lowest = 1 - TOLERANCE - (min(warmup_share, 0.5) if multiplier is None else 0.0)
    for name, curve in curves.groups.items():
        peak = requested.lr.get(name) if isinstance(requested.lr, Mapping) else requested.lr
        if peak:
            ratios.append(curve.max() / (peak * height))
            observed.append(f"{curve.max():.3g} at step {curves.steps[curve.argmax()]} in {name}")
            if not lowest <= ratios[-1] <= 1 + TOLERANCE:
                observed[-1] += f", x{ratios[-1]:.3g} of what was requested"
    wrong = [ratio for ratio in ratios if not lowest <= ratio <= 1 + TOLERANCE]
    if not isinstance(requested.lr, Mapping):
        # One number is the peak of some group: lower LRs of earlier layers and higher ones of a head are choices.
        kept = [index for index, ratio in enumerate(ratios) if ratio not in wrong] or [int(np.argmax(ratios))]
        observed = [observed[index] for index in kept]
        if len(kept) < len(ratios):
            observed.append(f"{len(ratios) - len(kept)} other groups at x{min(ratios):.3g} to x{max(ratios):.3g}")
        wrong = [ratios[kept[0]]] if len(wrong) == len(ratios) else []
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


def _take_steps(setup: TrainingSetup) -> _TakenSteps | None:
    """Call `train_step` until it has made COUNTED_STEPS updates, at least that often and at most MAX_CALLS times.

    Return None if it is not given. An error in it is left to the check of the training step if there is no scheduler.
    """
    if setup.train_step is None or not setup.optimizer_list:
        return None
    schedulers = [each for each in setup.scheduler_list if not is_plateau_scheduler(each)]
    if schedulers:
        return _count_steps(setup, schedulers)
    with suppress(UserCodeError):
        return _count_steps(setup, schedulers)
    return None


def _count_steps(setup: TrainingSetup, schedulers: Sequence[Any]) -> _TakenSteps:
    """Count the steps of the schedulers from the first update to the last, or in all calls if those are all updates."""
    updates, is_lost = dict.fromkeys(map(id, setup.optimizer_list), 0), False

    def count_update(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        updates[id(optimizer)] += 1

    def read_counts() -> np.ndarray:
        return np.array([max(updates.values()), *(each.last_epoch for each in schedulers)])

    with setup.preserved_state():
        counts, lrs = [read_counts()], [read_group_lrs(setup)]
        hooks = [optimizer.register_step_post_hook(count_update) for optimizer in setup.optimizer_list]
        try:
            for index in range(affordable_repeats(setup.model, MAX_CALLS)):
                setup.run_user_code("train_step", setup.batches[index % len(setup.batches)])
                counts.append(read_counts())
                lrs.append(read_group_lrs(setup))
                is_lost |= counts[-1][0] == counts[-2][0] and not _has_finite_gradients(setup)  # by a gradient scaler
                if index + 1 >= COUNTED_STEPS and counts[-1][0] >= COUNTED_STEPS:
                    break
        finally:
            for hook in hooks:
                hook.remove()
    calls, made = len(counts) - 1, int(counts[-1][0])
    first = next(index for index, each in enumerate(counts) if each[0] or index == calls)
    if made >= calls or is_lost or first == calls:
        advanced = (counts[-1] - counts[0])[1:] / calls
    else:
        advanced = (counts[-1] - counts[first])[1:] / (made - counts[first][0])
    return _TakenSteps(calls, calls if is_lost else made, dict(zip(schedulers, advanced.tolist(), strict=True)), lrs)


def _has_finite_gradients(setup: TrainingSetup) -> bool:
    gradients = [parameter.grad for parameter in setup.trainable_parameters.values() if parameter.grad is not None]
    return all(bool(torch.isfinite(each._values() if each.is_sparse else each).all()) for each in gradients)


def _describe_unknown_lrs(taken: _TakenSteps) -> str:
    """Return why neither the optimizer nor the schedulers tell the LRs of the run, or an empty string."""
    if not taken.updates and not taken.moving_groups and not taken.most_scheduler_steps:
        return f"`train_step` made no update in {taken.calls} calls; it should make one in each"
    if taken.moving_groups and not taken.most_scheduler_steps:
        first, last = (max(read.values()) for read in (taken.lrs[0], taken.lrs[-1]))
        moved = f"from {first:.3g} to {last:.3g} in {taken.calls} calls"
        return f"the step sets the LR itself, {moved}; needs `scheduler` or `lrs_at`"
    used = {id(each.optimizer) for each, steps in taken.scheduler_steps.items() if steps}
    waiting = [each for each, steps in taken.scheduler_steps.items() if not steps and id(each.optimizer) in used]
    if waiting:
        names = ", ".join(type(each).__name__ for each in waiting)
        return f"the first steps advance one scheduler and not {names}, of the same optimizer; needs `lrs_at`"
    return ""


def _judge_unused_scheduler(setup: TrainingSetup) -> Finding:
    """Judge a scheduler that no step advances: one made for the run's steps fails, one that may count epochs warns."""
    total, curves = setup.requested.total_steps or 1, read_lr_curves(setup)
    observed, expected = "no training step advances it, so the LR does not change", "1 step per training step"
    if ends_with_run(curves, total):
        hint = "Call scheduler.step() after each optimizer.step(), inside `train_step`"
        return failed("scheduler steps", f"{observed}; its decay ends at step {total}, as the run", expected, hint)
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
        observed += (
            f", so the run of {total} steps ends at step {total * scheduler_steps:.0f} of the schedule" if total else ""
        )
        yield warned(title, observed, expected, hint)
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
