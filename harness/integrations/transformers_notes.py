"""Findings about a Trainer beyond the checks: settings without effect, losses scaled wrongly, metrics that fail."""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from harness.core.seeding import preserve_rng_state
from harness.core.state import eval_mode
from harness.preflight import Finding, TrainingSetup, describe_user_error
from harness.preflight.report import failed, warned
from harness.preflight.step_recorder import recorded_step

OPTIMIZER_SETTINGS = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim")
SCHEDULER_SETTINGS = ("warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs")
LOSS_TOLERANCE = 1e-4  # relative change of a loss that does depend on num_items_in_batch is 0.5


def note_ignored_settings(trainer: Trainer, has_given_optimizer: bool) -> Iterator[Finding]:
    """Find arguments that were set and that an optimizer, a scheduler or a method of the user's own replaces."""
    changed = _list_changed_settings(trainer.args)
    given = {"optimizer": has_given_optimizer, "scheduler": not trainer._created_lr_scheduler}
    for part, names in (("optimizer", OPTIMIZER_SETTINGS), ("scheduler", SCHEDULER_SETTINGS)):
        ignored = [f"{name}={getattr(trainer.args, name)}" for name in names if name in changed]
        if given[part] and ignored:
            observed = f"{', '.join(ignored)} without effect, as the Trainer was given its {part}"
            yield warned("ignored arguments", observed, "settings in one place", f"Set them where the {part} is made")
    name = "create_optimizer_and_scheduler"
    if getattr(type(trainer), name) is not getattr(Trainer, name):
        observed = f"{type(trainer).__name__}.{name} is overridden, and this version of transformers never calls it"
        yield failed("optimizer", observed, "an optimizer as written", "Override create_optimizer and create_scheduler")


def _list_changed_settings(args: TrainingArguments) -> set[str]:
    defaults = {each.name: each.default for each in fields(TrainingArguments)}
    return {name for name, default in defaults.items() if getattr(args, name, default) != default}


def note_loss_scale(trainer: Any, batch: Any) -> Iterator[Finding]:
    """Find a loss that neither divides by `num_items_in_batch` nor is divided by the accumulation steps."""
    steps = trainer.args.gradient_accumulation_steps
    _, count = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
    says = getattr(trainer, "loss_is_scaled_for_ga", None)
    is_divided = not (says if says is not None else trainer.model_accepts_loss_kwargs or trainer.compute_loss_func)
    if steps == 1 or count is None or is_divided:
        return
    losses = []
    for factor in (1, 2):
        inputs = trainer._prepare_inputs(dict(batch) if isinstance(batch, Mapping) else batch)
        with preserve_rng_state(), torch.no_grad(), eval_mode(trainer.model), trainer.compute_loss_context_manager():
            torch.manual_seed(0)
            losses.append(trainer.compute_loss(trainer.model, inputs, num_items_in_batch=factor * count).item())
    if losses[0] and math.isclose(*losses, rel_tol=LOSS_TOLERANCE):
        observed = f"{_name_loss(trainer)} ignores num_items_in_batch, and the Trainer takes its loss as scaled: "
        observed += f"gradients are {steps} times too large with gradient_accumulation_steps={steps}"
        hint = "Set trainer.loss_is_scaled_for_ga = False, or divide the sum over all items by num_items_in_batch"
        yield failed("loss under accumulation", observed, "a mean over the whole step", hint)


def _name_loss(trainer: Any) -> str:
    """Return what computes the loss: a method or function of the user, or the model."""
    if type(trainer).compute_loss is not Trainer.compute_loss:
        return f"{type(trainer).__name__}.compute_loss"
    return "compute_loss_func" if trainer.compute_loss_func else type(trainer.model).__name__


def note_repeated_updates(setup: TrainingSetup, trainer: Trainer) -> Iterator[Finding]:
    """Find a `training_step` that updates the weights itself, before the Trainer does."""
    if type(trainer).training_step is Trainer.training_step or setup.train_step is None:
        return
    with setup.preserved_state(), recorded_step(setup, keeps_gradients=False) as record, suppress(Exception):
        setup.train_step(setup.batches[0])
    if updates := max(record.updates.values(), default=0) - 1:
        observed = f"{updates + 1} updates per step: training_step calls optimizer.step(), and so does the Trainer"
        hint = "Leave optimizer.step(), scheduler.step() and zero_grad() to the Trainer"
        yield failed("updates", observed, "1 update per step", hint)


def note_evaluation(trainer: Trainer, has_loss: bool, error: Exception | None) -> Iterator[Finding]:
    """Find an evaluation without a loss, metrics that raise an error, and a part of the data that is left out."""
    args = trainer.args
    if error is not None:
        yield warned(
            "compute_metrics",
            f"raised {describe_user_error(error)}",
            "metrics",
            "Training ends with this error at its first evaluation",
        )
    if not has_loss:
        observed = (
            "trainer.evaluate() returns no eval_loss: the batches have no labels under the names that it looks for, "
        )
        observed += f"{trainer.label_names}"
        hint = "Set label_names in TrainingArguments, which are not detected for wrapped models such as PeftModel"
        needs_loss = args.load_best_model_at_end and args.metric_for_best_model in ("loss", "eval_loss")
        yield (failed if needs_loss else warned)("validation loss", observed, "a validation loss", hint)
    dataset: Any = trainer.eval_dataset
    if args.dataloader_drop_last and hasattr(dataset, "__len__") and type(dataset) is not dict:
        dropped = len(dataset) % args.eval_batch_size
        if dropped:
            observed = (
                f"the last {dropped} of {len(dataset)} examples are left out: dataloader_drop_last holds for it, too"
            )
            yield warned(
                "coverage", observed, "all examples", "Leave dataloader_drop_last=False, or override the loader"
            )
