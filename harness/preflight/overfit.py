"""One batch can be learnt by heart: what cannot even that will learn nothing."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from harness.preflight.probe import eval_mode, subsample_batch, train_on_batch
from harness.preflight.report import Finding
from harness.preflight.training_setup import TrainingSetup

TOKENS, STEPS, SHARE = 64, 40, 0.5
"""On so few tokens the loss is to fall under this share of where it began within so many steps."""
SLOW = 0.8
"""What gets no further than this is learning, if slowly."""
LRS = (1e-3, 1e-2)
"""Of AdamW, where the subject's own optimizer does not."""
WHAT, EXPECTED = "one batch, learnt by heart", f"under {SHARE:.0%} of where it began, within {STEPS} steps"


def check(subject: TrainingSetup) -> Iterator[Finding]:
    if not subject.trainable_parameters:
        yield Finding("not checked", WHAT, "", "needs a trainable parameter")
        return
    with torch.no_grad(), eval_mode(subject.model):
        first = subject.compute_loss(subsample_batch(subject, subject.batches[0], TOKENS)).item()
    if first <= 0:
        yield Finding(
            "not checked", WHAT, "", f"needs a loss above 0 that falls towards it; this one begins at {first:.3g}"
        )
        return
    tried: dict[str, list[float]] = {}
    if subject.optimizer_list:
        with subject.preserved_state():
            own = _set_peak_lrs(subject)
            tried[own] = _train_on_few(subject, subject.optimizer_list)
        if _is_learned(tried[own]):
            yield Finding("pass", WHAT, _describe_losses(own, tried[own]), EXPECTED)
            return
    for lr in LRS:
        if f"AdamW at LR {lr:g}" in tried:
            continue
        with subject.preserved_state():
            adamw = torch.optim.AdamW(subject.trainable_parameters.values(), lr=lr, weight_decay=0.0)
            losses = tried[f"plain AdamW at LR {lr:g}"] = _train_on_few(subject, [adamw])
        if _is_learned(losses):
            break
    yield _judge_attempts(subject, tried)


def _judge_attempts(subject: TrainingSetup, tried: Mapping[str, Sequence[float]]) -> Finding:
    """After all that was tried, of which the last learnt it or nothing did."""
    seen, last = "; ".join(_describe_losses(who, losses) for who, losses in tried.items()), list(tried)[-1]
    if _is_learned(tried[last]):
        look = (
            f"the learning rate asked for, or the optimizer, for {last} learns it; python -m harness lr-range says more"
        )
        return Finding("warn" if subject.optimizer_list else "pass", WHAT, seen, EXPECTED, look)
    best = min((losses[-1] / losses[0] for losses in tried.values() if losses), default=math.inf)
    if best < SLOW:
        look = "what little is trained: the rank of adapters, what is frozen; or the learning rate"
        return Finding("warn", WHAT, seen, EXPECTED, look)
    look = "whether the inputs that reach the model differ between examples and belong to their targets; what is frozen"
    return Finding("fail", WHAT, seen, EXPECTED, look)


def _train_on_few(subject: TrainingSetup, optimizers: Sequence[torch.optim.Optimizer]) -> list[float]:
    """On a few examples, until they are learnt or the steps are spent."""
    losses: list[float] = []
    batch = subsample_batch(subject, subject.batches[0], TOKENS)
    for loss in train_on_batch(subject, batch, optimizers, STEPS):
        losses.append(loss)
        if _is_learned(losses):
            break
    return losses


def _is_learned(losses: Sequence[float]) -> bool:
    return len(losses) > 1 and losses[-1] < SHARE * losses[0]


def _set_peak_lrs(subject: TrainingSetup) -> str:
    """Each group of the optimizers at its peak LR: what is asked for it, or else begun with, or in force. Who they are,
    in words."""
    asked, lrs = subject.asked.lr, set()
    for group in (group for optimizer in subject.optimizer_list for group in optimizer.param_groups):
        own = asked.get(group.get("name")) if isinstance(asked, Mapping) else asked
        group["lr"] = group.get("initial_lr", group["lr"]) if own is None else own
        lrs.add(f"{float(group['lr']):g}")
    return f"{' and '.join(type(one).__name__ for one in subject.optimizer_list)} at LR {', '.join(sorted(lrs))}"


def _describe_losses(who: str, losses: Sequence[float]) -> str:
    if not losses:
        return f"{who}: no step could be taken, for nothing that is trained has a part in the loss"
    return f"{who}: loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses) - 1} steps"
