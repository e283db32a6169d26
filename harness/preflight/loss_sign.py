"""Check that the loss falls towards the targets, and takes logarithms where it needs them."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness.preflight.outputs import record_outputs
from harness.preflight.report import Finding, failed
from harness.preflight.targets import list_targets
from harness.preflight.training_setup import TrainingSetup

REVERSED_SHARE = 0.99  # of the targets, from which the loss is led the wrong way
LOGARITHM_HINT = "nll_loss takes log-probabilities: use cross_entropy on logits, or log_softmax before it"
TOLERANCE = 1e-3  # relative difference between two ways to compute a loss


def check_loss_sign(setup: TrainingSetup, batch: Any) -> Iterator[Finding]:
    """Judge the loss by its gradient at the model's output; only a negative one can have the wrong sign."""
    with torch.enable_grad():
        loss, outputs = record_outputs(setup.model, lambda: setup.compute_loss(batch))
    if len(outputs) != 1 or not torch.isfinite(loss) or not outputs[0].requires_grad or not loss.requires_grad:
        return
    [gradient] = torch.autograd.grad(loss, outputs[0], allow_unused=True)
    if gradient is None or not torch.isfinite(gradient).all():
        return
    output, gradient = outputs[0].detach().float(), gradient.float()
    for _, targets in list_targets(setup, batch):
        if loss < 0 and _is_reversed(output, gradient, targets):
            observed = f"{loss.item():.4g}, and it falls as the output moves away from its target"
            hint = "Look for a missing minus, or one too many: the loss is maximized, and has no lower bound"
            yield failed("sign of the loss", observed, "a loss that falls towards the target", hint)
            return
        if targets.shape == output.shape[:-1] and _lacks_logarithm(output, gradient, targets, loss.item()):
            observed = f"{loss.item():.4g}, minus the output for the target, which is no log-probability"
            yield failed("logarithm", observed, "a loss of log-probabilities, above 0", LOGARITHM_HINT)
            return


def _is_reversed(output: Tensor, gradient: Tensor, targets: Tensor) -> bool:
    """Return whether descent moves nearly every output away from its target."""
    if targets.shape == output.shape[:-1] and not targets.is_floating_point():
        at_target, others = _split_by_target(gradient, targets)
        is_scored = gradient.abs().amax(-1) > 0
        is_away = ((at_target > 0) & (others.amax(-1) <= 0))[is_scored]
    elif targets.numel() == output.numel() > 1:
        wanted = targets.reshape(output.shape).float()
        is_binary = bool(((wanted == 0) | (wanted == 1)).all()) and 0 < wanted.mean() < 1
        if not is_binary and targets.shape != output.shape:
            return False
        direction = (2 * wanted - 1) if is_binary else (wanted - output)
        is_away = (gradient * direction > 0)[gradient != 0]
    else:
        return False
    return is_away.numel() > 0 and is_away.float().mean().item() >= REVERSED_SHARE


def _lacks_logarithm(output: Tensor, gradient: Tensor, targets: Tensor, loss: float) -> bool:
    """Return whether the loss is minus the output for the target, and this output is no log-probability.

    Such a loss is linear: it equals the product of the output with its gradient.
    """
    if targets.is_floating_point() or output.shape[-1] < 2:
        return False
    at_target, others = _split_by_target(gradient, targets)
    if others.any() or not (at_target <= 0).all():
        return False
    is_linear = math.isclose(loss, (gradient * output).sum().item(), rel_tol=TOLERANCE)
    return is_linear and bool(output.logsumexp(-1).abs().max() > TOLERANCE)


def _split_by_target(gradient: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient at each target, and the gradient with 0 there."""
    index = targets.clamp(0, gradient.shape[-1] - 1)[..., None].long()
    return gradient.gather(-1, index)[..., 0], gradient.scatter(-1, index, 0.0)
