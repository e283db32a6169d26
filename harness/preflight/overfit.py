"""One batch can be learnt by heart: what cannot even that will learn nothing."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from harness.preflight.findings import Finding
from harness.preflight.probe import descend, few
from harness.preflight.subject import Subject

STEPS, SHARE = 30, 0.5
"""The loss is to fall under this share of where it began within so many steps."""
LRS = (1e-3, 1e-2)
"""Of AdamW, where the subject's own optimizer does not."""


def check(subject: Subject) -> Iterator[Finding]:
    if not subject.trainable:
        yield Finding("not checked", "one batch", "", "it takes a trainable parameter")
        return
    what, expected = "one batch, learnt by heart", f"under {SHARE:.0%} of where it began, within {STEPS} steps"
    told = []
    if subject.optimizers:
        with subject.untouched():
            own = _put_at_peak(subject)
            losses = _losses(subject, subject.optimizers)
        told.append(f"{own}: {_fall(losses)}")
        if _is_learnt(losses):
            yield Finding("pass", what, told[0], expected)
            return
    for lr in LRS:
        with subject.untouched():
            losses = _losses(subject, [torch.optim.AdamW(subject.trainable.values(), lr=lr, weight_decay=0.0)])
        told.append(f"AdamW at LR {lr:g}: {_fall(losses)}")
        if _is_learnt(losses):
            break
    yield _judged(subject, what, "; ".join(told), expected, _is_learnt(losses), lr)


def _judged(subject: Subject, what: str, seen: str, expected: str, is_learnt: bool, lr: float) -> Finding:
    if is_learnt and not subject.optimizers:
        return Finding("pass", what, seen, expected)
    if is_learnt:
        look = (
            f"the learning rate that is asked for, or the optimizer; a range test says more: AdamW at {lr:g} learns it"
        )
        return Finding("warn", what, seen, expected, look)
    look = "whether the inputs that reach the model differ between examples and belong to their targets; what is frozen"
    return Finding("fail", what, seen, expected, look)


def _losses(subject: Subject, optimizers: Sequence[torch.optim.Optimizer]) -> list[float]:
    """On a few examples, until they are learnt or the steps are spent."""
    losses: list[float] = []
    for loss in descend(subject, few(subject), optimizers, STEPS):
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


def _fall(losses: Sequence[float]) -> str:
    if not losses:
        return "no step could be taken, for nothing that is trained has a part in the loss"
    return f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses) - 1} steps"
