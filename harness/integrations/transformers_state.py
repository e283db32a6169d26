"""Prepare a transformers Trainer for steps as `train()` does, and leave it as it was."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from accelerate.state import GradientState
from transformers import Trainer
from transformers.trainer_utils import align_special_tokens
from transformers.utils import logging

from harness.core.seeding import preserve_rng_state
from harness.preflight.object_state import preserved_attributes, preserved_model, preserved_optimizer

CONFIGS = ("config", "generation_config")


def describe_unsupported(trainer: Trainer) -> str:
    """Return why a trainer cannot be checked in this process, or an empty string."""
    args = trainer.args
    names = {"DeepSpeed": trainer.is_deepspeed_enabled, "FSDP": trainer.is_fsdp_enabled}
    for name, is_enabled in names.items():
        if is_enabled:
            return f"needs a model in one process; this one is split by {name}. Run preflight once without it"
    if args.world_size > 1:
        return f"needs one process, not {args.world_size}; run preflight once without torchrun or accelerate launch"
    if args.n_gpu > 1:
        return f"needs one device, not {args.n_gpu} GPUs under DataParallel; set CUDA_VISIBLE_DEVICES=0"
    if trainer.is_model_parallel:
        return "needs a model on one device; this one is spread over several (device_map)"
    if trainer.train_dataset is None and type(trainer).get_train_dataloader is Trainer.get_train_dataloader:
        return "needs train_dataset"
    return ""


@contextmanager
def preserved_trainer(trainer: Trainer) -> Iterator[None]:
    """Restore the trainer, its model and optimizer, and all random generators on exit; print and report nothing."""
    model: Any = trainer.model
    objects = [trainer, trainer.accelerator, trainer.callback_handler, trainer.state, trainer.control, trainer.args]
    objects += [GradientState(), *filter(None, (getattr(model, name, None) for name in CONFIGS))]
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets: Any = sys.modules.get("datasets")  # that of Hugging Face, if the user loaded it
    shows_mapping = datasets is not None and datasets.are_progress_bars_disabled() is False
    if shows_mapping:
        datasets.disable_progress_bars()
    try:
        with ExitStack() as stack:
            stack.enter_context(preserve_rng_state())
            stack.enter_context(preserved_model(model))
            if trainer.lr_scheduler is not None:
                stack.enter_context(preserved_attributes([trainer.lr_scheduler]))
            if optimizer is not None:
                stack.enter_context(preserved_optimizer(optimizer))
            stack.enter_context(preserved_attributes(objects))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()
        if shows_mapping:
            datasets.enable_progress_bars()


def prepare_for_steps(trainer: Trainer, is_prepared: bool) -> int:
    """Do what `train()` does before its first step, if it has not been done, and return the number of steps.

    Callbacks and logging are switched off first: nothing is reported.
    """
    trainer.callback_handler.callbacks = []
    trainer.__dict__["log"] = lambda *args, **kwargs: None
    trainer.is_in_train = True
    loader = trainer.get_train_dataloader()
    max_steps = trainer.set_initial_training_values(trainer.args, loader)[-1]
    trainer.state.max_steps = max_steps
    if is_prepared:
        return max_steps
    args: Any = trainer.args
    model: Any = trainer.model
    if getattr(args, "activation_checkpointing", False) and hasattr(model, "activation_checkpointing_enable"):
        options = dict(args.activation_checkpointing_kwargs or {})
        every, offload = options.pop("every_n_layers", 1), options.pop("offload", False)
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs=options or None, every_n_layers=every, offload=offload
        )
    if trainer.processing_class is not None and hasattr(model, "config"):
        align_special_tokens(model, trainer.processing_class)
    trainer._prepare_for_training(max_steps, loader, None)
    return max_steps
