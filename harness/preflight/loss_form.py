"""Check the form of output and loss: deterministic, logits where logits are expected, a mean, no broadcast targets."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from harness.core.state import eval_mode
from harness.data.tokens import IGNORE_INDEX
from harness.preflight.batch_rows import count_examples, replace_part, select_rows
from harness.preflight.loss_sign import LOGARITHM_HINT, check_loss_sign
from harness.preflight.object_state import preserved_model_state
from harness.preflight.outputs import (
    find_output_tensor,
    outermost_calls,
    record_outputs,
    relative_change,
    replace_output,
)
from harness.preflight.probe import affordable_tokens, keeps_state, measure_resolution, subsample_batch
from harness.preflight.report import Finding, failed, passed, skipped, warned
from harness.preflight.targets import list_targets
from harness.preflight.training_setup import TrainingSetup

TOLERANCE = 1e-4  # relative change that the order of float32 additions may cause
MEAN_TOLERANCE = 1e-3
PERFECT_SHARE = (
    0.3  # of its loss at a uniform guess that a loss may keep with a perfect output: label smoothing keeps less
)
WEIGHT_SCALES = (1.0, 10.0)  # of the weights; probabilities stay between 0 and 1 at any of them
SATURATED = 100.0  # a logit that makes a prediction certain
NOT_A_SUM = 3  # times the mean; below it, an additional term explains a loss


def check(setup: TrainingSetup) -> Iterator[Finding]:
    batch = subsample_batch(setup, setup.batches[0], affordable_tokens(setup.model))
    with eval_mode(setup.model):
        repeats = _check_repeats(setup, batch)
        yield repeats
        if repeats.level == "fail":
            return
        _, outputs = record_outputs(setup.model, lambda: setup.compute_loss(batch))
        if len(outputs) == 1:
            yield from _check_probabilities(setup, batch, outputs[0])
        yield from check_loss_sign(setup, batch)
        yield from _check_broadcast(setup, batch)
        if setup.text is not None:
            yield from _check_text_mean(setup, batch)
        else:
            yield from _check_row_mean(setup, batch)


@torch.no_grad()
def _check_repeats(setup: TrainingSetup, batch: Any) -> Finding:
    """Run the model twice on the inputs that the loss gives it, in eval mode."""
    title, expected = "output in eval mode", "the same output for the same input"
    outputs = _call_twice(setup, batch)
    if outputs is None or outputs[0].shape != outputs[1].shape or not torch.isfinite(outputs[0]).all():
        return skipped(title, "needs a loss that calls the model, with finite output")
    change = relative_change(*outputs).max().item()
    if change <= max(TOLERANCE, 4 * measure_resolution(setup, batch)):
        note = (
            "; the model keeps a state between calls, which is set back before each"
            if keeps_state(setup, batch)
            else ""
        )
        return passed(title, f"the same for the same input{note}")
    hint = "Look for dropout that eval() does not switch off: F.dropout(x, p) without training=self.training"
    observed = f"random: it changes by {change:.2g} of its spread from one call to the next"
    return (failed if setup.text is not None else warned)(title, observed, expected, hint)


def _call_twice(setup: TrainingSetup, batch: Any) -> tuple[Tensor, Tensor] | None:
    """Return two outputs for the inputs of the loss's first call of the model, or None."""
    if setup.text is not None and setup.text.logits is not None:
        logits = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            logits.append(setup.compute_logits(batch))
        return logits[0], logits[1]
    calls: list[tuple[Any, Any, Any, Tensor]] = []

    def record(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        tensor = find_output_tensor(output)
        if tensor is not None:
            calls.append((module, args, kwargs, tensor))

    with outermost_calls(setup.model, record):
        setup.compute_loss(batch)
    if not calls:
        return None
    module, args, kwargs, first = calls[0]
    with preserved_model_state(setup.model):
        second = find_output_tensor(module(*args, **kwargs))
    return None if second is None else (first, second)


def _check_probabilities(setup: TrainingSetup, batch: Any, output: Tensor) -> Iterator[Finding]:
    """Check that a perfect output brings the loss down, if the model returns probabilities."""
    kind = _describe_probabilities(setup, batch)
    if not kind:
        yield from _check_second_softmax(setup, batch, output)
    perfect = _make_perfect_output(setup, batch, output, is_column=kind == "sigmoid") if kind else None
    if perfect is None:
        return
    uniform = torch.full_like(perfect, 0.5 if kind == "sigmoid" else 1 / perfect.shape[-1])
    losses = [_compute_loss_of_output(setup, batch, each) for each in (uniform, perfect)]
    if losses[0] is None or losses[1] is None or not losses[0] > 0:
        return
    title, expected = "probabilities", "a loss near 0 for a perfect output"
    observed = f"the model returns probabilities ({kind}), with which the loss cannot fall below {losses[1]:.3g}"
    observed += f"; a uniform guess has {losses[0]:.3g}"
    hint = f"Return logits: the loss applies a {kind} of its own (cross_entropy, ..._with_logits)"
    if losses[1] > PERFECT_SHARE * losses[0]:
        yield failed(title, observed, expected, hint)
    else:
        yield passed(title, f"the model returns probabilities ({kind}), and the loss takes them as such")


def _check_second_softmax(setup: TrainingSetup, batch: Any, output: Tensor) -> Iterator[Finding]:
    """Find a softmax between logits and a cross-entropy: no output has a loss below ln(classes - 1 + e) - 1."""
    perfect = _make_perfect_output(setup, batch, output, is_column=False)
    if perfect is None or perfect.shape[-1] < 3:
        return
    loss = _compute_loss_of_output(setup, batch, SATURATED * perfect)
    bound = math.log(perfect.shape[-1] - 1 + math.e) - 1
    uniform = _compute_loss_of_output(setup, batch, torch.zeros_like(perfect))
    values = ((loss, -1.0), (uniform, -1 / perfect.shape[-1]))
    if all(value is not None and math.isclose(value, wanted, rel_tol=MEAN_TOLERANCE) for value, wanted in values):
        observed = "certain and correct logits have a loss of -1, uniform ones of -1/classes: minus a probability"
        yield failed("logarithm", observed, "a loss near 0 for a perfect output", LOGARITHM_HINT)
    if loss is not None and math.isclose(loss, bound, rel_tol=MEAN_TOLERANCE):
        observed = f"certain and correct logits have a loss of {loss:.4g}, as with a softmax before the cross-entropy"
        hint = "Give the logits to the loss, which applies a softmax of its own"
        yield failed("softmax", observed, "a loss near 0 for a perfect output", hint)


@torch.no_grad()
def _describe_probabilities(setup: TrainingSetup, batch: Any) -> str:
    """Return "softmax" or "sigmoid" if the output is between 0 and 1 whatever the weights are, or an empty string."""
    kinds = set()
    for scale in WEIGHT_SCALES:
        with setup.preserved_state():
            for parameter in setup.model.parameters():
                if parameter.is_floating_point() and parameter.requires_grad:
                    parameter.mul_(scale).add_(0.01 * scale * torch.randn_like(parameter))
            setup.model.eval()
            outputs = record_outputs(setup.model, lambda: setup.compute_loss(batch))[1]
        output = outputs[0].float() if outputs else torch.full((1, 1), math.nan)
        is_share = bool(((output >= 0) & (output <= 1)).all()) and output.ndim > 1
        sums = output.sum(-1)
        is_softmax = is_share and output.shape[-1] > 1 and bool(((sums - 1).abs() < 1e-2).all())
        kinds.add("softmax" if is_softmax else "sigmoid" if is_share and output.std() > 0 else "")
    return kinds.pop() if len(kinds) == 1 else ""


def _make_perfect_output(setup: TrainingSetup, batch: Any, output: Tensor, is_column: bool) -> Tensor | None:
    """Return the probabilities that give each target 1, or None if the targets are not known."""
    for _, labels in list_targets(setup, batch):
        if is_column and labels.numel() == output.numel() and bool(((labels == 0) | (labels == 1)).all()):
            return labels.reshape(output.shape).to(output.dtype)
        if not is_column and labels.shape == output.shape[:-1] and not labels.is_floating_point():
            return F.one_hot(labels.clamp(0, output.shape[-1] - 1), output.shape[-1]).to(output.dtype)
    return None


def _compute_loss_of_output(setup: TrainingSetup, batch: Any, output: Tensor) -> float | None:
    """Return the loss for another output of the model, or None if it is computed inside the model."""

    def insert(module: Any, args: Any, kwargs: Any, original: Any) -> Any:
        tensor = find_output_tensor(original)
        return None if tensor is None else replace_output(original, tensor, output)

    with torch.no_grad(), outermost_calls(setup.model, insert):
        loss = setup.compute_loss(batch).item()
    return loss if math.isfinite(loss) else None


@torch.no_grad()
def _check_broadcast(setup: TrainingSetup, batch: Any) -> Iterator[Finding]:
    """Find operations of the loss that combine n outputs and n targets to n x n numbers, as their shapes differ."""
    size = count_examples(batch)
    if size is None or size < 2 or setup.text is not None:
        return
    for name, targets in list_targets(setup, batch):
        if targets.is_floating_point():
            yield from _find_broadcast(setup, batch, name, targets)


def _find_broadcast(setup: TrainingSetup, batch: Any, name: str, targets: Tensor) -> Iterator[Finding]:
    spread = targets.float().std().to(targets.dtype)
    operands = []
    for each in (targets, targets + (spread if spread > 0 else 1)):
        torch.manual_seed(0)
        with BroadcastRecorder(targets.numel()) as recorder:
            setup.compute_loss(replace_part(batch, name, each))
        operands.append(recorder.operands)
    pairs = zip(*operands, strict=False)
    changed = {tuple(one.shape): not torch.equal(one, other) for one, other in pairs if one.shape == other.shape}
    if len(changed) == 2 and len(set(changed.values())) == 2:  # one shape is that of the targets, the other is not
        shapes = {is_target: list(shape) for shape, is_target in changed.items()}
        observed = f"output {shapes[False]}, targets {shapes[True]}: each output is compared with all targets"
        hint = "Shapes are broadcast; give both the same shape, such as output.squeeze(-1) or targets[:, None]"
        yield failed("shapes of output and targets", observed, "each output compared with its own target", hint)


class BroadcastRecorder(TorchDispatchMode):
    """Record tensors of shape [n] and [n, 1] that an operation expands to [n, n] or combines with each other."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.shapes = (torch.Size([size]), torch.Size([size, 1]))
        self.operands: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        square = torch.Size([self.shapes[0][0]] * 2)
        if isinstance(result, Tensor) and result.shape == square:
            self.operands += [each.clone() for each in args if isinstance(each, Tensor) and each.shape in self.shapes]
        return result


@torch.no_grad()
def _check_text_mean(setup: TrainingSetup, batch: Any) -> Iterator[Finding]:
    """Compare the loss with the cross-entropy per scored token, and with its multiples by tokens and rows."""
    assert setup.text is not None
    logits, tokens = setup.compute_logits(batch).float(), setup.text.read_tokens(batch)
    shift = int(bool(setup.is_causal) and not setup.text.label_shift)
    labels = tokens.labels[:, shift:]
    if not labels.numel() or not (labels != IGNORE_INDEX).any():
        return
    nats = F.cross_entropy(
        logits[:, : labels.shape[1]].flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX
    ).item()
    loss, scored = setup.compute_loss(batch).item(), int((labels != IGNORE_INDEX).sum())
    title, ratio, expected = "mean over tokens", loss / nats, "the mean over scored tokens"
    observed = f"{loss:.4g}, {ratio:.4g} times the cross-entropy of {nats:.4g} per token"
    for count, unit in ((scored, "scored tokens"), (labels.numel(), "tokens"), (len(labels), "rows")):
        if NOT_A_SUM < 0.7 * count < ratio < 1.4 * count:
            observed += f", and there are {count} {unit}: a sum, not a mean"
            yield failed(title, observed, expected, "Divide the sum by the number of scored tokens (reduction='mean')")
            return
    tolerance = max(MEAN_TOLERANCE, 4 * measure_resolution(setup, batch))
    # Some count the label of the first token, too, which nothing predicts, as a Trainer with GPT-2 does.
    is_first_counted = scored == labels.numel()
    for count in {labels.numel()} if is_first_counted else {labels.numel(), tokens.labels.numel()}:
        if count != scored and abs(ratio * count / scored - 1) < tolerance < abs(ratio - 1):
            observed += f": the sum is divided by all {count} tokens, padding and hidden labels included"
            hint = f"Set the labels of padding to {IGNORE_INDEX}, and divide the sum by the number of scored tokens"
            yield failed(title, observed, expected, hint)
            return
    yield passed(title, observed)


@torch.no_grad()
def _check_row_mean(setup: TrainingSetup, batch: Any) -> Iterator[Finding]:
    """Compare the loss of a batch with those of its rows."""
    size = count_examples(batch)
    if size is None or size < 2 or setup.zero_output_loss is not None:
        return

    def compute(rows: Any) -> float:
        torch.manual_seed(0)
        return setup.compute_loss(rows).item()

    whole, rows = compute(batch), [compute(select_rows(batch, slice(row, row + 1), size)) for row in range(size)]
    torch.manual_seed(1)
    title, again = "mean over rows", setup.compute_loss(batch).item()
    if not math.isclose(whole, again, rel_tol=MEAN_TOLERANCE) or not all(map(math.isfinite, [whole, *rows])):
        return
    total, tolerance = sum(rows), max(MEAN_TOLERANCE, 4 * measure_resolution(setup, batch))
    if math.isclose(whole, total, rel_tol=tolerance) and not math.isclose(total, 0, abs_tol=1e-12):
        hint = "Divide by the number of examples, or the LR will depend on the batch size"
        yield warned(title, f"{whole:.4g}, the sum over the {size} rows", "the mean", hint)
    else:
        is_mean = math.isclose(whole, total / size, rel_tol=tolerance)
        yield passed(title, f"{whole:.4g}, " + ("the mean over the rows" if is_mean else "not a mean over rows alone"))
