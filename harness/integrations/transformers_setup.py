"""The training setup of a transformers Trainer: its batches, its step, its evaluation, what it saves, its settings."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from harness.core.seeding import preserve_rng_state
from harness.core.state import eval_mode
from harness.data.tokens import IGNORE_INDEX
from harness.integrations.examples import choose_examples, read_training_data
from harness.integrations.model_weights import has_trained_norms
from harness.integrations.transformers_notes import (
    note_evaluation,
    note_ignored_settings,
    note_loss_scale,
    note_repeated_updates,
)
from harness.integrations.transformers_reload import copy_with_noise, find_adapter_merger, load_saved_model
from harness.preflight import EvalResult, RequestedSettings, TrainingSetup
from harness.preflight.batch_rows import count_examples, select_rows
from harness.preflight.outputs import locked_eval_mode

N_BATCHES = 4
# Parameters times tokens of an evaluation, so that it takes seconds, and limits of its number of examples.
OTHER_LOSS = 0.2  # relative difference that no other way to count labels explains, only another term
EVAL_COST, MIN_EVAL, MAX_EVAL = 2e11, 32, 208


@dataclass
class TrainerAdapter:
    """Functions that do what a trainer does, on one that is prepared for training.

    `trainer.model` is used without the wrapper that compiles it.
    """

    trainer: Any  # a Trainer, of which transformers declares parts as optional that a prepared one has
    max_steps: int
    optimizer_is_given: bool
    batches: Sequence[Any] = ()
    is_text: bool = False
    has_step_loss: bool = False
    metric_error: Exception | None = None
    eval_examples: Any = None

    @property
    def accumulation_steps(self) -> int:
        return self.trainer.args.gradient_accumulation_steps

    def read_batches(self) -> None:
        """Take the first batches of the trainer's own loader.

        Raises:
            ValueError: If there are none.
        """
        loader = self.trainer.get_train_dataloader()
        self.batches = [self.trainer._prepare_input(batch) for batch in islice(iter(loader), N_BATCHES)]
        if not self.batches:
            raise ValueError("the training data loader returned no batch")

    @torch.no_grad()
    def try_loss(self) -> None:
        """Compute the loss of a batch, for the error that it may raise."""
        with preserve_rng_state(), eval_mode(self.trainer.model):
            self.compute_loss(self.trainer.model, self.batches[0])

    def compute_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of a batch as if it made a step alone."""
        trainer = self.trainer
        _, count = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
        trainer.current_gradient_accumulation_steps = 1
        inputs = trainer._prepare_inputs(dict(batch) if isinstance(batch, Mapping) else batch)
        with trainer.compute_loss_context_manager():
            return trainer.compute_loss(model, inputs, num_items_in_batch=count)

    def find_step_loss(self) -> bool:
        """Take the loss from `training_step` if that is overridden and computes another one than `compute_loss`."""
        trainer, batch = self.trainer, self.batches[0]
        if type(trainer).training_step is Trainer.training_step:
            return False
        with preserve_rng_state(), torch.no_grad(), eval_mode(trainer.model), suppress(Exception):
            own, usual = (compute(trainer.model, batch) for compute in (self.capture_step_loss, self.compute_loss))
            self.has_step_loss = not math.isclose(own.item(), usual.item(), rel_tol=OTHER_LOSS)
        return self.has_step_loss

    def capture_step_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return what `training_step` gives to `accelerator.backward` for a batch that makes a step alone.

        Raises:
            ValueError: If it does not call it.
        """
        trainer, losses = self.trainer, list[Tensor]()
        samples, count = trainer.get_batch_samples(iter([_copy_mapping(batch)]), 1, trainer.args.device)
        trainer.current_gradient_accumulation_steps = 1
        trainer.accelerator.backward = lambda loss, **kwargs: losses.append(loss)
        try:
            with nullcontext() if model.training else locked_eval_mode(model):
                trainer.training_step(model, samples[0], count)
        finally:
            del trainer.accelerator.backward
        if not losses:
            raise ValueError("training_step does not call accelerator.backward")
        return losses[0]

    def take_step(self, batch: Any) -> None:
        """Make one update as `Trainer.train` does, without its callbacks."""
        trainer, parts = self.trainer, self.split_for_step(batch)
        samples, count = trainer.get_batch_samples(iter(parts), len(parts), trainer.args.device)
        trainer.current_gradient_accumulation_steps = len(samples)
        for index, inputs in enumerate(samples):
            trainer.accelerator.gradient_state._set_sync_gradients(index == len(samples) - 1)
            trainer.training_step(trainer.model, inputs, count)
        if trainer.args.max_grad_norm and trainer.args.max_grad_norm > 0:
            trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        if not trainer.accelerator.optimizer_step_was_skipped and not hasattr(trainer.lr_scheduler, "patience"):
            trainer.lr_scheduler.step()
        trainer.model.zero_grad()
        trainer.state.global_step += 1

    def split_for_step(self, batch: Any) -> list[Any]:
        """Return as many micro-batches as a step accumulates: parts of a batch of text, otherwise the batch each time.

        Parts are cut only if each of them has labels. A loss that compares the rows of a batch needs complete ones.
        """
        size, steps = count_examples(batch), self.accumulation_steps
        if steps == 1 or not self.is_text or size is None or size < steps:
            return [_copy_mapping(batch)] * steps
        bounds = [round(size * index / steps) for index in range(steps + 1)]
        parts = [select_rows(batch, slice(*pair), size) for pair in pairwise(bounds)]
        if all((part["labels"][:, 1:] != IGNORE_INDEX).any() for part in parts):
            return parts
        return [_copy_mapping(batch)] * steps

    def repeat_for_cost(self, batch: Any) -> list[Any]:
        """Return micro-batches of which one step costs as much as a micro-batch of the trainer's."""
        is_cut = len({id(part) for part in self.split_for_step(batch)}) > 1
        return [batch] * (self.accumulation_steps if is_cut else 1)

    def evaluate(self, batch_size: int) -> EvalResult:
        """Return `eval_loss` of `trainer.evaluate` on `eval_examples`.

        Raises:
            KeyError: If there is none.
        """
        trainer = self.trainer
        trainer.args.per_device_eval_batch_size = batch_size
        trainer.__dict__.pop("_eval_dataloaders", None)  # kept with their batch size if workers are persistent
        return EvalResult(float(self._run_evaluation()["eval_loss"]), averages_batches=True)

    def _run_evaluation(self) -> dict[str, float]:
        is_whole = self.eval_examples is self.trainer.eval_dataset
        return self.trainer.evaluate(**{} if is_whole else {"eval_dataset": self.eval_examples})

    def guard_metrics(self) -> None:
        """Keep the first error of `compute_metrics` instead of ending the evaluation."""
        compute_metrics = self.trainer.compute_metrics
        if compute_metrics is None:
            return

        def guarded(*args: Any, **kwargs: Any) -> dict[str, float]:
            try:
                return compute_metrics(*args, **kwargs)
            except Exception as error:
                self.metric_error = self.metric_error or error
                return {}

        self.trainer.compute_metrics = guarded

    def save(self, folder: Path) -> None:
        self.trainer.save_model(str(folder), _internal_call=True)

    def load(self, folder: Path) -> nn.Module:
        """Load what was saved; if the trainer changed the model's `forward`, load the weights into a copy of it."""
        loaded = self.trainer.accelerator.prepare_model(load_saved_model(self.trainer, folder), evaluation_mode=True)
        try:
            with torch.no_grad(), eval_mode(loaded):
                self.compute_loss(loaded, self.batches[0])
        except Exception:
            copied = copy_with_noise(self.trainer.model)
            copied.load_state_dict(loaded.state_dict(), strict=False)
            return copied
        return loaded

    def make_setup(self, is_pretrained: bool | None) -> TrainingSetup:
        """Return the setup of the trainer."""
        trainer = self.trainer
        if is_pretrained is None:
            is_pretrained = has_trained_norms(trainer.model)
        setup = TrainingSetup(
            trainer.model,
            self.batches,
            self.capture_step_loss if self.find_step_loss() else self.compute_loss,
            is_pretrained=is_pretrained,
            requested=self.read_requested(),
            optimizer=getattr(trainer.optimizer, "optimizer", trainer.optimizer),
            scheduler=trainer.lr_scheduler,
            train_step=self.take_step,
            split_batch=self.repeat_for_cost,
            extra_state=[scaler] if (scaler := trainer.accelerator.scaler) is not None else [],
            batch_size=self.count_step_examples(),
            save=self.save,
            load=self.load,
            merge_adapters=find_adapter_merger(trainer),
            data=read_training_data(
                trainer.train_dataset,
                self.choose_eval_dataset(),
                getattr(trainer.processing_class, "unk_token_id", None),
            ),
        )
        self.is_text = setup.text is not None
        has_loss = self._add_evaluation(setup)
        notes = {
            "train_step": [*note_loss_scale(trainer, self.batches[0]), *note_repeated_updates(setup, trainer)],
            "effective_settings": note_ignored_settings(trainer, self.optimizer_is_given),
            "evaluation": note_evaluation(trainer, has_loss, self.metric_error),
        }
        return replace(setup, known_findings={name: list(found) for name, found in notes.items()})

    def _add_evaluation(self, setup: TrainingSetup) -> bool:
        """Evaluate once; give the setup an evaluation unless it returns no loss, and return whether it does."""
        dataset, args = self.choose_eval_dataset(), self.trainer.args
        if dataset is None:
            return True
        self.eval_examples = choose_examples(dataset, self.count_eval_examples(setup))
        args.dataloader_num_workers, args.dataloader_persistent_workers = 0, False
        args.dataloader_prefetch_factor = None
        self.guard_metrics()
        if hasattr(dataset, "__len__") and len(dataset):
            setup.eval_fraction = len(self.eval_examples) / len(dataset)
        has_loss = True
        with preserve_rng_state(), suppress(Exception):  # the check meets the same error
            has_loss = "eval_loss" in self._run_evaluation()
        setup.evaluate = self.evaluate if has_loss else None
        return has_loss

    def choose_eval_dataset(self) -> Any:
        """Return the first of several evaluation sets."""
        dataset = self.trainer.eval_dataset
        return next(iter(dataset.values()), None) if type(dataset) is dict else dataset

    def count_eval_examples(self, setup: TrainingSetup) -> int:
        tokens = setup.text.read_tokens(self.batches[0]).inputs.shape[1] if setup.text is not None else 1
        cost = tokens * sum(weight.numel() for weight in setup.model.parameters())
        return int(min(MAX_EVAL, max(MIN_EVAL, EVAL_COST / cost)))

    def count_step_examples(self) -> int | None:
        """Return the examples per step, or None if rows of a batch are no examples, as if these are packed."""
        trainer, sizes = self.trainer, [count_examples(batch) for batch in self.batches]
        is_own = type(trainer).get_train_dataloader is not Trainer.get_train_dataloader
        if is_own or sizes[0] in (None, 1):
            return None
        if hasattr(trainer.train_dataset, "__len__") and len(trainer.train_dataset) < trainer._train_batch_size:
            return None
        return sizes[0] * self.accumulation_steps if sizes[0] is not None else None

    def read_requested(self) -> RequestedSettings:
        """Read what TrainingArguments ask for; what an optimizer of the user's own overrides is left out."""
        trainer, args = self.trainer, self.trainer.args
        warmup = args.get_warmup_steps(self.max_steps)
        makes_groups = type(trainer).create_optimizer is not Trainer.create_optimizer
        return RequestedSettings(
            lr=None if self.optimizer_is_given or makes_groups else args.learning_rate,
            warmup_steps=warmup or None,
            total_steps=self.max_steps,
            completed_steps=trainer.state.global_step,
            batch_size=trainer.get_total_train_batch_size(args),
            evals=self.count_evaluations(),
        )

    def count_evaluations(self) -> int | None:
        args = self.trainer.args
        if self.trainer.eval_dataset is None or args.eval_strategy == "no":
            return None
        if args.eval_strategy == "epoch":
            return math.ceil(args.num_train_epochs)
        every = args.eval_steps if args.eval_steps >= 1 else math.ceil(self.max_steps * args.eval_steps)
        return max(1, int(self.max_steps // every))


def _copy_mapping(batch: Any) -> Any:
    return dict(batch) if isinstance(batch, Mapping) else batch
