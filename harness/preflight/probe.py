"""Tools shared by the checks: cut batches to a cheap size, and evaluate or train the model on one of them."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.core.seeding import preserve_rng_state
from harness.core.state import eval_mode
from harness.core.task import Loss
from harness.data.tokens import IGNORE_INDEX
from harness.preflight.batch_rows import count_examples, cut_columns, select_rows
from harness.preflight.object_state import preserved_model_state
from harness.preflight.outputs import find_output_tensor, record_outputs
from harness.preflight.text_format import LabeledTokens, TextFormat
from harness.preflight.training_setup import TrainingSetup

# Tokens of a training step are chosen to keep parameters times tokens at STEP_COST, where about 30 steps take seconds
# on two cores.
STEP_COST, MIN_TOKENS, MAX_TOKENS = 2e8, 64, 256
NEEDS_TEXT = "needs `text`, or batches that are mappings with input_ids and labels"
LARGE_MODEL = 5e7  # parameters
FEW_REPEATS = 2  # for large models; a LoRA adapter's first matrix gets a gradient in its second step
ROUNDING = 1e-6  # relative to the largest gradient: smaller ones are 0 but for rounding
MAX_EXAMPLES = 8  # of batches that are not text, if the whole batch is expensive
MAX_WHOLE_EXAMPLES = 128  # as some checks take each example alone
MAX_WARMUP_STEPS, PATIENT_STEPS = 20_000, 100  # in which the highest LR is looked for, and before it may be past
MAX_GRAD_NORM = 1.0  # keeps the LRs tried here from diverging in the first step


def affordable_tokens(model: nn.Module) -> int:
    """Return the number of tokens per step at which checks stay cheap."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return int(min(MAX_TOKENS, max(MIN_TOKENS, STEP_COST / parameters)))


def affordable_repeats(model: nn.Module, wanted: int) -> int:
    """Return how often to repeat something that costs as much as a step: fewer times for a large model."""
    is_large = sum(parameter.numel() for parameter in model.parameters()) > LARGE_MODEL
    return min(wanted, FEW_REPEATS) if is_large else wanted


def subsample_batch(setup: TrainingSetup, batch: Any, max_tokens: int) -> Any:
    """Cut a batch to the rows with the most labels, up to `max_tokens`, or to a window of one row if rows are longer.

    A batch that is not text is used as it is if that is cheap, or if its loss cannot be computed for its first
    MAX_EXAMPLES examples alone.
    """
    if setup.text is None:
        size = count_examples(batch)
        return batch if size is None or size <= MAX_EXAMPLES else _choose_examples(setup, batch, size)
    tokens = setup.text.read_tokens(batch)
    is_scored = tokens.labels != IGNORE_INDEX
    rows, width = tokens.inputs.shape
    if width <= max_tokens:
        kept: Any = is_scored.sum(1).topk(min(rows, max_tokens // width)).indices.sort().values
        return select_rows(batch, kept, rows)
    window_scores = is_scored.float().unfold(1, max_tokens, 1).sum(-1)
    row, start = divmod(int(window_scores.argmax()), width - max_tokens + 1)
    columns = slice(start, start + max_tokens)
    inputs, labels, is_real = (each[row : row + 1, columns] for each in (tokens.inputs, tokens.labels, tokens.is_real))
    others = cut_columns(dict(tokens.columns), row, columns, (rows, width))
    return setup.text.make_batch(LabeledTokens(inputs, labels, is_real, others))


def _choose_examples(setup: TrainingSetup, batch: Any, size: int) -> Any:
    """Return the whole batch if a step on it costs at most as much as one on text, and otherwise its first examples.

    The cost of these is counted in multiplications: each output of a layer takes as many as one of them has weights.
    """
    cut, costs = select_rows(batch, slice(0, MAX_EXAMPLES), size), [0.0]

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = find_output_tensor(output)
        if tensor is not None:
            weights = [weight for weight in module.parameters(recurse=False) if weight.ndim > 1]
            costs.append(tensor.numel() * sum(weight[0].numel() for weight in weights))

    hooks = [module.register_forward_hook(record) for module in setup.model.modules()]
    try:
        is_usable = _has_finite_loss(setup, cut)
    finally:
        for hook in hooks:
            hook.remove()
    if not is_usable:
        return batch if _has_finite_loss(setup, batch) else cut
    parameters = sum(parameter.numel() for parameter in setup.model.parameters())
    cost = max(parameters, sum(costs) / MAX_EXAMPLES) * size
    return batch if cost <= STEP_COST and size <= MAX_WHOLE_EXAMPLES else cut


@torch.no_grad()
def _has_finite_loss(setup: TrainingSetup, batch: Any) -> bool:
    try:
        with eval_mode(setup.model), preserve_rng_state():
            return bool(torch.isfinite(setup.compute_loss(batch)))
    except Exception:
        return False


def make_text_batch(text: TextFormat, rows: Tensor) -> Any:
    """Return the batch that holds `rows` of text, all positions labeled, without further columns."""
    inputs, labels = rows[:, : rows.shape[1] - text.label_shift], rows[:, text.label_shift :]
    return text.make_batch(LabeledTokens(inputs, labels, torch.ones_like(inputs, dtype=torch.bool)))


@torch.no_grad()
def measure_resolution(setup: TrainingSetup, batch: Any) -> float:
    """Return the machine epsilon of the coarsest type that a layer outputs, float32's or larger."""
    seen = {torch.finfo(torch.float32).eps}

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            seen.add(torch.finfo(output.dtype).eps)

    hooks = [module.register_forward_hook(record) for module in setup.model.modules()]
    try:
        setup.compute_loss(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return max(seen)


def has_reduced_precision(setup: TrainingSetup) -> bool:
    """Return whether a layer outputs fewer than 32 bits, because of its weights or of autocast."""
    batch = subsample_batch(setup, setup.batches[0], MIN_TOKENS)
    return measure_resolution(setup, batch) > torch.finfo(torch.float32).eps


def train_on_batch(
    setup: TrainingSetup, batch: Any, optimizers: Sequence[torch.optim.Optimizer], steps: int
) -> Iterator[float]:
    """Yield the loss before each of `steps` updates on one batch and after the last one, in eval mode.

    Losses that draw random numbers draw the same ones in each step. Yield nothing if the loss does not depend on a
    trainable parameter.
    """
    trainable = list(setup.trainable_parameters.values())
    for optimizer in optimizers:
        if hasattr(optimizer, "train"):  # schedule-free optimizers
            optimizer.train()

    def compute_gradients() -> Tensor:
        torch.manual_seed(0)
        for parameter in trainable:
            parameter.grad = None
        loss = setup.compute_loss(batch)
        if loss.requires_grad:
            loss.backward()
            if not any(map(needs_closure, optimizers)):  # L-BFGS needs the gradients as they are
                _clip_gradients(trainable)
        return loss

    with eval_mode(setup.model):
        for _ in range(steps):
            loss = compute_gradients()
            if not loss.requires_grad:
                return
            yield loss.item()
            for optimizer in optimizers:
                arguments: list[Any] = [compute_gradients] if needs_closure(optimizer) else []
                optimizer.step(*arguments)
        with torch.no_grad():
            torch.manual_seed(0)
            yield setup.compute_loss(batch).item()


def record_single_output(setup: TrainingSetup, batch: Any) -> Tensor | None:
    """Return the output of the model's only call, or None if the loss calls it several times or not at all.

    `TextFormat.logits` is used if it is given, as the loss may compute logits in pieces.
    """
    if setup.text is not None and setup.text.logits is not None:
        return setup.compute_logits(batch)
    torch.manual_seed(0)
    outputs = record_outputs(setup.model, lambda: setup.compute_loss(batch))[1]
    return outputs[0] if len(outputs) == 1 else None


@torch.no_grad()
def keeps_state(setup: TrainingSetup, batch: Any) -> bool:
    """Return whether a call changes what the next one returns, as the state of a recurrent model does."""
    with eval_mode(setup.model), preserved_model_state(setup.model):
        losses = []
        for _ in range(2):
            torch.manual_seed(0)
            loss = setup.loss_fn(setup.model, batch)
            losses.append(loss.sum.item() if isinstance(loss, Loss) else loss.item())
    return losses[0] != losses[1]


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer computes gradients in its own step, as L-BFGS does."""
    return isinstance(optimizer, torch.optim.LBFGS)


def _clip_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Clip the norm of all gradients that are not sparse to MAX_GRAD_NORM."""
    is_dense = [parameter for parameter in parameters if parameter.grad is not None and not parameter.grad.is_sparse]
    torch.nn.utils.clip_grad_norm_(is_dense, MAX_GRAD_NORM)


def get_dense_grad(parameter: nn.Parameter) -> Tensor | None:
    """Return a copy of a parameter's gradient, or None if it has none."""
    gradient = parameter.grad
    if gradient is None:
        return None
    return gradient.detach().to_dense() if gradient.is_sparse else gradient.detach().clone()


def named_param_groups(setup: TrainingSetup) -> list[tuple[str, dict[str, Any]]]:
    """Return the parameter groups of all optimizers with their names, such as group0."""
    groups = chain.from_iterable(optimizer.param_groups for optimizer in setup.optimizer_list)
    return [(group.get("name", f"group{index}"), group) for index, group in enumerate(groups)]


def is_plateau_scheduler(scheduler: Any) -> bool:
    """Return whether a scheduler waits for an evaluation loss to stop falling."""
    return hasattr(scheduler, "patience")


def set_peak_lrs(setup: TrainingSetup) -> None:
    """Set each group to its peak LR: the requested, the initial or the current one."""
    requested = setup.requested.lr
    groups = named_param_groups(setup)
    initial = [float(group.get("initial_lr", group["lr"])) for _, group in groups]
    for (name, group), lr in zip(groups, initial, strict=True):
        if isinstance(requested, Mapping):
            value = requested.get(name, lr)
        elif requested is None or not max(initial):
            value = requested or lr
        else:
            value = requested * lr / max(initial)  # peaks that differ between groups keep their ratio
        group["lr"] = torch.full_like(group["lr"], value) if isinstance(group["lr"], Tensor) else value


def advance_to_peak(setup: TrainingSetup) -> None:
    """Advance the schedulers, without training, to the step with the highest LR, so that updates show."""
    schedulers = [scheduler for scheduler in setup.scheduler_list if not is_plateau_scheduler(scheduler)]
    if not schedulers:
        return
    limit = min(MAX_WARMUP_STEPS, setup.requested.total_steps or MAX_WARMUP_STEPS)
    stateful: list[Any] = [*schedulers, *setup.optimizer_list]
    states = [copy.deepcopy(part.state_dict()) for part in stateful]
    lrs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns if a scheduler's step does not follow an update
        for _ in range(limit):
            lrs.append(max(float(group["lr"]) for _, group in named_param_groups(setup)))
            if len(lrs) > PATIENT_STEPS and lrs[-1] < 0.5 * max(lrs):
                break
            if not _step_all(schedulers):
                break
        for part, state in zip(stateful, states, strict=True):
            part.load_state_dict(state)
        for _ in range(int(np.argmax(lrs))):
            _step_all(schedulers)


def _step_all(schedulers: Sequence[Any]) -> bool:
    """Return whether all schedulers could be advanced; OneCycleLR ends at its own length."""
    try:
        for scheduler in schedulers:
            scheduler.step()
    except ValueError:
        return False
    return True


def format_names(names: Sequence[str], limit: int = 3) -> str:
    """Return the first names and the number of the others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
