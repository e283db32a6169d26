"""Check that the model can overfit a single batch; if it cannot, it will learn nothing."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from harness.core.state import eval_mode
from harness.preflight.outputs import find_loss_floor
from harness.preflight.probe import (
    has_reduced_precision,
    named_param_groups,
    set_peak_lrs,
    subsample_batch,
    train_on_batch,
)
from harness.preflight.report import Finding, UserCodeError, failed, passed, skipped, warned
from harness.preflight.training_setup import TrainingSetup

TOKENS, STEPS = 64, 40
LEARNED_RATIO = 0.5  # final over initial loss
SLOW_RATIO = 0.8  # below it, the model learns slowly
ADAMW_LRS = (1e-3, 1e-2)  # tried if the setup's own optimizer does not overfit
MIN_FALL = 5e-3  # of the loss with the setup's own optimizer and LR, from which they are no problem
LR_STEPS = 2  # training steps in which an LR that the step sets is read
SLOPE_STEP, SLOPE_TOLERANCE = 1e-3, 0.01  # share of the loss; relative error of a slope over such a step
TITLE, EXPECTED = "overfit one batch", f"under {LEARNED_RATIO:.0%} of the initial loss within {STEPS} steps"


def check(setup: TrainingSetup) -> Iterator[Finding]:
    if not setup.trainable_parameters:
        yield skipped(TITLE, "needs a trainable parameter")
        return
    with torch.no_grad(), eval_mode(setup.model):
        initial_loss = setup.compute_loss(subsample_batch(setup, setup.batches[0], TOKENS)).item()
    if initial_loss <= 0:
        yield skipped(TITLE, f"needs a loss above 0 that decreases towards 0; this one starts at {initial_loss:.3g}")
        return
    attempts: dict[str, list[float]] = {}
    if setup.optimizer_list:
        lrs = _read_step_lrs(setup)
        with setup.preserved_state():
            set_peak_lrs(setup)
            for (_, group), lr in zip(named_param_groups(setup), lrs, strict=True):
                if not float(group["lr"]):
                    group["lr"] = lr
            name = _describe_optimizers(setup)
            if any(float(group["lr"]) for _, group in named_param_groups(setup)):
                attempts[name] = _train_on_few(setup, setup.optimizer_list)
        if name in attempts and _is_learned(attempts[name]):
            yield passed(TITLE, _describe_losses(name, attempts[name]), EXPECTED)
            return
    for lr in ADAMW_LRS:
        if f"AdamW at LR {lr:g}" in attempts:
            continue
        with setup.preserved_state():
            adamw = torch.optim.AdamW(setup.trainable_parameters.values(), lr=lr, weight_decay=0.0)
            losses = attempts[f"plain AdamW at LR {lr:g}"] = _train_on_few(setup, [adamw])
        if _is_learned(losses):
            break
    yield _judge_attempts(setup, attempts)


def _read_step_lrs(setup: TrainingSetup) -> list[float]:
    """Return the highest LR of each group in a few training steps, as the step may set it; only if all are 0 before."""
    lrs = [float(group["lr"]) for _, group in named_param_groups(setup)]
    if any(lrs) or setup.requested.lr or setup.train_step is None:
        return lrs
    with setup.preserved_state(), suppress(UserCodeError):
        for index in range(LR_STEPS):
            setup.run_user_code("train_step", setup.batches[index % len(setup.batches)])
            lrs = [max(lr, float(group["lr"])) for lr, (_, group) in zip(lrs, named_param_groups(setup), strict=True)]
    return lrs


def _judge_attempts(setup: TrainingSetup, attempts: Mapping[str, Sequence[float]]) -> Finding:
    """Judge all attempts, of which only the last may have been successful."""
    observed = "; ".join(_describe_losses(name, losses) for name, losses in attempts.items())
    last = list(attempts)[-1]
    if _is_learned(attempts[last]):
        own = next(iter(attempts.values()))
        if len(own) > 1 and own[-1] < (1 - MIN_FALL) * own[0]:  # slow within 40 steps, but it learns
            return passed(TITLE, observed, EXPECTED)
        hint = f"Change the requested LR or the optimizer, as {last} succeeds; see also plateau lr-range"
        return (warned if setup.optimizer_list else passed)(TITLE, observed, EXPECTED, hint)
    if round(floor := _measure_floor(setup), 3) > 0:
        gaps = [
            (losses[-1] - floor) / (losses[0] - floor) for losses in attempts.values() if losses and losses[0] > floor
        ]
        observed += f"; no output of the model has a loss below {floor:.3f}"
        if not gaps or min(gaps) < LEARNED_RATIO:
            return passed(TITLE, observed, EXPECTED)
        if min(gaps) < SLOW_RATIO:
            return warned(TITLE, observed, EXPECTED, "Look at the number of trainable weights, or at the LR")
    if not has_reduced_precision(setup) and not _is_slope(setup):
        observed += "; the gradient is not the slope of the loss, which therefore need not fall"
        hint = "Ignore this for losses with opposing parts or a stop-gradient (GAN, straight-through, reversal)"
        return warned(TITLE, observed, EXPECTED, hint)
    best = min((losses[-1] / losses[0] for losses in attempts.values() if losses), default=math.inf)
    if best < SLOW_RATIO:
        hint = "Look at the number of trainable weights (adapter rank, frozen layers), or at the LR"
        return warned(TITLE, observed, EXPECTED, hint)
    hint = "Check that inputs differ between examples and match their targets; look for frozen layers"
    return failed(TITLE, observed, EXPECTED, hint)


def _repeat_loss(setup: TrainingSetup) -> Callable[[], Tensor]:
    """Return a function of the loss on part of the first batch, with the same random numbers in every call."""
    batch = subsample_batch(setup, setup.batches[0], TOKENS)

    def compute_loss() -> Tensor:
        torch.manual_seed(0)
        return setup.compute_loss(batch)

    return compute_loss


def _is_slope(setup: TrainingSetup) -> bool:
    """Return whether moving the weights along the gradient changes the loss as the gradient says."""
    compute_loss = _repeat_loss(setup)
    with setup.preserved_state(), eval_mode(setup.model):
        weights = list(setup.trainable_parameters.values())
        loss = compute_loss()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        dense = [(weight, grad.to_dense()) for weight, grad in zip(weights, gradients, strict=True) if grad is not None]
        square = sum(grad.abs().square().sum().item() for _, grad in dense)
        if not square or not math.isfinite(square):
            return True
        step = SLOPE_STEP * abs(loss.item()) / square  # changes the loss by about this share
        losses = []
        with torch.no_grad():
            for sign in (1, -2):
                for weight, grad in dense:
                    weight.add_(grad.to(weight.dtype), alpha=sign * step)
                losses.append(compute_loss().item())
    ratio = (losses[0] - losses[1]) / (2 * step * square)
    return abs(ratio - 1) < SLOPE_TOLERANCE


def _measure_floor(setup: TrainingSetup) -> float:
    """Return the loss that no output of the model can go below, or 0 if it is unknown."""
    compute_loss = _repeat_loss(setup)
    with setup.preserved_state(), eval_mode(setup.model):
        floor = find_loss_floor(setup.model, compute_loss)
    return floor if floor is not None and math.isfinite(floor) else 0.0


def _train_on_few(setup: TrainingSetup, optimizers: Sequence[torch.optim.Optimizer]) -> list[float]:
    """Return the losses on a few examples until they are learned or all steps are taken."""
    losses: list[float] = []
    batch = subsample_batch(setup, setup.batches[0], TOKENS)
    for loss in train_on_batch(setup, batch, optimizers, STEPS):
        losses.append(loss)
        if _is_learned(losses):
            break
    return losses


def _is_learned(losses: Sequence[float]) -> bool:
    return len(losses) > 1 and losses[-1] < LEARNED_RATIO * losses[0]


def _describe_optimizers(setup: TrainingSetup) -> str:
    lrs = {f"{float(group['lr']):g}" for _, group in named_param_groups(setup)}
    names = " and ".join(type(optimizer).__name__ for optimizer in setup.optimizer_list)
    return f"{names} at LR {', '.join(sorted(lrs)[:3])}" + (", ..." if len(lrs) > 3 else "")


def _describe_losses(name: str, losses: Sequence[float]) -> str:
    if not losses:
        return f"{name}: no step possible, as the loss does not depend on a trainable parameter"
    return f"{name}: loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses) - 1} steps"
