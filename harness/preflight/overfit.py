"""One batch can be learnt by heart: what cannot even that will learn nothing."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from harness.preflight.probe import at_rest, descend, few
from harness.preflight.report import Finding
from harness.preflight.training_setup import Subject

TOKENS, STEPS, SHARE = 64, 40, 0.5
"""On so few tokens the loss is to fall under this share of where it began within so many steps."""
SLOW = 0.8
"""What gets no further than this is learning, if slowly."""
LRS = (1e-3, 1e-2)
"""Of AdamW, where the subject's own optimizer does not."""
WHAT, EXPECTED = "one batch, learnt by heart", f"under {SHARE:.0%} of where it began, within {STEPS} steps"


def check(subject: Subject) -> Iterator[Finding]:
    if not subject.trainable:
        yield Finding("not checked", WHAT, "", "needs a trainable parameter")
        return
    with torch.no_grad(), at_rest(subject.model):
        first = subject.loss(few(subject, subject.batches[0], TOKENS)).item()
    if first <= 0:
        yield Finding(
            "not checked", WHAT, "", f"needs a loss above 0 that falls towards it; this one begins at {first:.3g}"
        )
        return
    tried: dict[str, list[float]] = {}
    if subject.optimizers:
        with subject.untouched():
            own = _put_at_peak(subject)
            tried[own] = _losses(subject, subject.optimizers)
        if _is_learnt(tried[own]):
            yield Finding("pass", WHAT, _fall(own, tried[own]), EXPECTED)
            return
    for lr in LRS:
        if f"AdamW at LR {lr:g}" in tried:
            continue
        with subject.untouched():
            adamw = torch.optim.AdamW(subject.trainable.values(), lr=lr, weight_decay=0.0)
            losses = tried[f"plain AdamW at LR {lr:g}"] = _losses(subject, [adamw])
        if _is_learnt(losses):
            break
    yield _judged(subject, tried)


def _judged(subject: Subject, tried: Mapping[str, Sequence[float]]) -> Finding:
    """After all that was tried, of which the last learnt it or nothing did."""
    seen, last = "; ".join(_fall(who, losses) for who, losses in tried.items()), list(tried)[-1]
    if _is_learnt(tried[last]):
        look = (
            f"the learning rate asked for, or the optimizer, for {last} learns it; python -m harness lr-range says more"
        )
        return Finding("warn" if subject.optimizers else "pass", WHAT, seen, EXPECTED, look)
    best = min((losses[-1] / losses[0] for losses in tried.values() if losses), default=math.inf)
    if best < SLOW:
        look = "what little is trained: the rank of adapters, what is frozen; or the learning rate"
        return Finding("warn", WHAT, seen, EXPECTED, look)
    look = "whether the inputs that reach the model differ between examples and belong to their targets; what is frozen"
    return Finding("fail", WHAT, seen, EXPECTED, look)


def _losses(subject: Subject, optimizers: Sequence[torch.optim.Optimizer]) -> list[float]:
    """On a few examples, until they are learnt or the steps are spent."""
    losses: list[float] = []
    batch = few(subject, subject.batches[0], TOKENS)
    for loss in descend(subject, batch, optimizers, STEPS):
        losses.append(loss)
        if _is_learnt(losses):
            break
    return losses


def _is_learnt(losses: Sequence[float]) -> bool:
    return len(losses) > 1 and losses[-1] < SHARE * losses[0]


def _put_at_peak(subject: Subject) -> str:
    """Each group of the optimizers at its peak LR: what is asked for it, or else begun with, or in force. Who they are,
    in words."""
    asked, lrs = subject.asked.lr, set()
    for group in (group for optimizer in subject.optimizers for group in optimizer.param_groups):
        own = asked.get(group.get("name")) if isinstance(asked, Mapping) else asked
        group["lr"] = group.get("initial_lr", group["lr"]) if own is None else own
        lrs.add(f"{float(group['lr']):g}")
    return f"{' and '.join(type(one).__name__ for one in subject.optimizers)} at LR {', '.join(sorted(lrs))}"


def _fall(who: str, losses: Sequence[float]) -> str:
    if not losses:
        return f"{who}: no step could be taken, for nothing that is trained has a part in the loss"
    return f"{who}: loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses) - 1} steps"
