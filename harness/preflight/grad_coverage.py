"""What a few steps of training reach: every trainable parameter, with a finite gradient, and no frozen one."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from harness.preflight.probe import (
    ROUNDING,
    affordable_repeats,
    affordable_tokens,
    format_names,
    subsample_batch,
    train_on_batch,
)
from harness.preflight.report import Finding
from harness.preflight.training_setup import TrainingSetup

STEPS, SKIPPED = 4, 32
"""Updates that are taken, and those that may be skipped over overflow before them: halvings of a gradient scaler."""
LR = 1e-3
"""Of AdamW, where there is no optimizer."""


def check_grad_coverage(subject: TrainingSetup) -> Iterator[Finding]:
    """What a few steps of training reach."""
    trainable = subject.trainable_parameters
    frozen = {name: of for name, of in subject.model.named_parameters() if name not in trainable}
    before = {name: of.detach().clone() for name, of in subject.model.named_parameters()}
    reach = _train_and_record(subject)
    now = dict(subject.model.named_parameters())
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}
    yield _judge_gradients(subject, reach)
    if subject.optimizer_list:
        yield _judge_updates(subject, moved, reach)
    yield Finding(
        "fail" if moved & frozen.keys() else "pass",
        "frozen parameters",
        f"{len(moved & frozen.keys())} of {len(frozen)} moved{_list_names(moved & frozen.keys())}",
        "none",
        "what else writes to the weights: an optimizer that holds them, averaging, a scheduler of their own",
    )


@dataclass
class _GradCoverage:
    """By parameter the `largest` gradient of the updates `taken`, and of the last one those that are not finite."""

    largest: dict[str, float]
    broken: Sequence[str] = ()
    taken: int = 0
    skipped: int = 0


def _train_and_record(subject: TrainingSetup) -> _GradCoverage:
    """Train until enough updates are taken, one of them is broken, or too many are skipped."""
    reach, sizes = _GradCoverage(dict.fromkeys(subject.trainable_parameters, 0.0)), dict[str, float]()

    def heard(name: str) -> Callable[[Tensor], None]:
        def look(parameter: Tensor) -> None:
            size = parameter.grad.detach().abs().max().item()
            sizes[name] = max(sizes.get(name, 0.0), size if math.isfinite(size) else math.inf)

        return look

    hooks = [of.register_post_accumulate_grad_hook(heard(name)) for name, of in subject.trainable_parameters.items()]
    steps, weights = affordable_repeats(subject, STEPS), _weight_sums(subject)
    try:
        for _ in _training_steps(subject):
            were, weights = weights, _weight_sums(subject)
            reach.broken = [name for name, size in sizes.items() if math.isinf(size)]
            is_skipped = bool(reach.broken) and weights == were
            if is_skipped:
                reach.skipped += 1
            else:
                reach.taken += 1
                reach.largest |= {name: max(size, reach.largest[name]) for name, size in sizes.items()}
            sizes.clear()
            if reach.taken == steps or reach.skipped > SKIPPED or (reach.broken and not is_skipped):
                return reach
    finally:
        for hook in hooks:
            hook.remove()
    return reach


def _training_steps(subject: TrainingSetup) -> Iterator[None]:
    """Steps as the training takes them, or else as its optimizer does, or AdamW."""
    most = affordable_tokens(subject.model)
    optimizers = subject.optimizer_list or [torch.optim.AdamW(subject.trainable_parameters.values(), lr=LR)]
    for batch in cycle([subsample_batch(subject, batch, most) for batch in subject.batches]):
        if subject.step is not None:
            subject.step(batch)
        else:
            for _ in train_on_batch(subject, batch, optimizers, 1):
                pass
        yield


@torch.no_grad()
def _weight_sums(subject: TrainingSetup) -> list[float]:
    """Of the trainable weights, by which it is seen that they moved."""
    real = (torch.view_as_real(of) if of.is_complex() else of for of in subject.trainable_parameters.values())
    return [of.sum(dtype=torch.float64).item() for of in real]


def _judge_gradients(subject: TrainingSetup, reach: _GradCoverage) -> Finding:
    largest, what = reach.largest, f"gradients in {reach.taken} steps"
    expected = "a finite gradient that is not 0 for every trainable parameter"
    if reach.broken:
        seen = (
            f"{len(reach.broken)} of {len(largest)} parameters had one that is not finite: {format_names(reach.broken)}"
        )
        seen += f"; {reach.skipped} updates were skipped" if reach.skipped else ""
        return Finding("fail", what, seen, expected, "overflow in float16, a division by 0, a logarithm of 0")
    none = [name for name, size in largest.items() if size == 0]
    if len(none) == len(largest):
        return Finding("fail", what, "no parameter had one", expected, "whether the loss is part of the graph")
    seen = f"{len(largest) - len(none)} of {len(largest)} parameters had one"
    rounding = [name for name, size in largest.items() if 0 < size <= ROUNDING * max(largest.values())]
    if rounding:
        seen += f", {len(rounding)} of them no more than rounding, as biases of keys do"
    seen += f"; none: {format_names(none)}" if none else ""
    if reach.skipped:
        seen += f", after {reach.skipped} skipped over overflow"
    if reach.skipped and not any(isinstance(one, torch.amp.GradScaler) for one in subject.moved):
        look = "what skips updates: name a gradient scaler in `moved`; without one gradients are always to be finite"
        return Finding("warn", what, seen, expected, look)
    look = "modules that are never called: freeze them, or take them out"
    return Finding("warn" if none else "pass", what, seen, expected, look)


def _judge_updates(subject: TrainingSetup, moved: set[str], reach: _GradCoverage) -> Finding:
    """Those with a gradient, by the subject's optimizer."""
    largest = reach.largest
    still = [name for name, size in largest.items() if size > 0 and name not in moved]
    what, seen = f"weights in {reach.taken} steps", f"{len(largest) - len(still)} of {len(largest)} moved"
    expected = "every trainable parameter moves"
    if not still:
        return Finding("pass", what, seen, expected)
    groups = [group for optimizer in subject.optimizer_list for group in optimizer.param_groups]
    holding = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    is_lost = all(holding.get(id(subject.trainable_parameters[name]), 0.0) > 0 for name in still)
    seen += f"; with a gradient and at rest: {format_names(still)}"
    if is_lost:
        look = "the learning rate: it is too small for the precision of these weights"
        return Finding("warn", what, seen, expected, look)
    return Finding("fail", what, seen, expected, "the optimizer: which parameters it holds, and each group's LR")


def _list_names(names: set[str]) -> str:
    return f": {format_names(sorted(names))}" if names else ""
