"""Check that the model can overfit a single batch; if it cannot, it will learn nothing."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from harness.core.state import eval_mode
from harness.preflight.outputs import find_loss_floor
from harness.preflight.probe import named_param_groups, set_peak_lrs, subsample_batch, train_on_batch
from harness.preflight.report import Finding, failed, passed, skipped, warned
from harness.preflight.training_setup import TrainingSetup

TOKENS, STEPS = 64, 40
LEARNED_RATIO = 0.5  # final over initial loss
SLOW_RATIO = 0.8  # below it, the model learns slowly
ADAMW_LRS = (1e-3, 1e-2)  # tried if the setup's own optimizer does not overfit
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
        with setup.preserved_state():
            set_peak_lrs(setup)
            name = _describe_optimizers(setup)
            attempts[name] = _train_on_few(setup, setup.optimizer_list)
        if _is_learned(attempts[name]):
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


def _judge_attempts(setup: TrainingSetup, attempts: Mapping[str, Sequence[float]]) -> Finding:
    """Judge all attempts, of which only the last may have been successful."""
    observed = "; ".join(_describe_losses(name, losses) for name, losses in attempts.items())
    last = list(attempts)[-1]
    if _is_learned(attempts[last]):
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
    best = min((losses[-1] / losses[0] for losses in attempts.values() if losses), default=math.inf)
    if best < SLOW_RATIO:
        hint = "Look at the number of trainable weights (adapter rank, frozen layers), or at the LR"
        return warned(TITLE, observed, EXPECTED, hint)
    hint = "Check that inputs differ between examples and match their targets; look for frozen layers"
    return failed(TITLE, observed, EXPECTED, hint)


def _measure_floor(setup: TrainingSetup) -> float:
    """Return the loss that no output of the model can go below, or 0 if it is unknown."""
    batch = subsample_batch(setup, setup.batches[0], TOKENS)

    def compute_loss() -> Tensor:
        torch.manual_seed(0)
        return setup.compute_loss(batch)

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
