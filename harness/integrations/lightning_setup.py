"""The training setup of a LightningModule inside a Trainer that is about to make its first step."""

import copy
import inspect
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer import call
from torch import Tensor, nn

from harness.core.seeding import preserve_rng_state
from harness.core.state import eval_mode
from harness.integrations.epoch_schedules import moves_by_epochs
from harness.integrations.model_weights import has_trained_norms
from harness.preflight import EvalResult, Finding, RequestedSettings, TrainingSetup
from harness.preflight.batch_rows import count_examples
from harness.preflight.report import warned

N_BATCHES = 4
LR_NAMES = ("lr", "learning_rate")  # in the module's hyperparameters
CHECKPOINT = "model.ckpt"


class ModuleAdapter:
    """Functions that do what the trainer does with a module."""

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self.trainer: Any = trainer
        self.module: Any = module
        self.loop: Any = self.trainer.fit_loop.epoch_loop
        self.n_batches_seen, self.n_backward_calls = 0, 0
        self.total_steps = self.trainer.estimated_stepping_batches
        self.batches = [self._prepare_batch(batch) for batch in islice(self.trainer.train_dataloader or (), N_BATCHES)]
        trainer.fit_loop.max_batches = math.inf  # so that no step here is the last one of an epoch

    def _prepare_batch(self, batch: Any) -> Any:
        """Move a batch to the device as the trainer does, with the hooks of the module."""
        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        return call._call_strategy_hook(self.trainer, "batch_to_device", batch, dataloader_idx=0)

    def take_step(self, batch: Any) -> None:
        """Make one update, accumulated over the batch as often as the trainer does, without its callbacks."""
        trainer, module, loop = self.trainer, self.module, self.loop
        module.train()
        for _ in range(trainer.accumulate_grad_batches if module.automatic_optimization else 1):
            index, part = self.n_batches_seen, copy.copy(batch)
            self.n_batches_seen += 1
            loop.batch_progress.current.ready = loop.batch_progress.total.ready = self.n_batches_seen
            trainer._logger_connector.on_batch_start(part)
            call._call_lightning_module_hook(trainer, "on_train_batch_start", part, index)
            arguments = loop._build_kwargs(OrderedDict(), part, index)
            if module.automatic_optimization:
                output = loop.automatic_optimization.run(trainer.optimizers[0], index, arguments)
            else:
                output = loop.manual_optimization.run(arguments)
            loop.update_lr_schedulers("step", update_plateau_schedulers=False)
            call._call_lightning_module_hook(trainer, "on_train_batch_end", output, part, index)
            trainer._logger_connector.on_batch_end()

    def compute_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of `training_step` without logging; with manual optimization, what first goes to backward.

        Raises:
            ValueError: If there is none.
        """
        module: Any = model
        losses: list[Tensor] = []
        with _muted(module, self.trainer, losses), self.trainer.precision_plugin.train_step_context():
            wanted = inspect.signature(module.training_step).parameters
            output = module.training_step(copy.copy(batch), *([0] if len(wanted) > 1 else []))
        if not module.automatic_optimization:
            self.n_backward_calls = len(losses)
            output = losses[0] if losses else None
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):
            raise ValueError(f"training_step returned {type(output).__name__}: no loss")
        return loss

    def evaluate(self) -> EvalResult:
        """Return the validation loss that `validation_step` logs.

        Raises:
            KeyError: If it logs none.
        """
        self.trainer.validating = True
        try:
            self.loop.val_loop.run()
        finally:
            self.trainer.training = True
        name = self.find_loss_name()
        if name is None:
            raise KeyError("validation_step logs no metric with `loss` in its name")
        return EvalResult(float(self.trainer.callback_metrics[name]), averages_batches=True)

    def find_loss_name(self) -> str | None:
        names = [name for name in self.trainer.callback_metrics if "loss" in name.lower()]
        return next((name for name in names if "val" in name.lower()), None)

    def save(self, folder: Path) -> None:
        self.trainer.save_checkpoint(folder / CHECKPOINT, weights_only=True)

    def load(self, folder: Path) -> nn.Module:
        """Load a checkpoint by its hyperparameters, or else into a copy whose trained weights have noise."""
        module, file = self.module, folder / CHECKPOINT
        required = [
            each for each in list(inspect.signature(type(module).__init__).parameters.values())[1:]
            if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]  # fmt: skip
        if all(each.name in module.hparams for each in required):
            loaded = type(module).load_from_checkpoint(file, map_location=module.device)
        else:
            loaded = copy.deepcopy(module)
            with torch.no_grad():
                for parameter in loaded.parameters():
                    parameter.add_(torch.randn_like(parameter) * parameter.requires_grad)
            state = torch.load(file, map_location=module.device, weights_only=False)["state_dict"]
            loaded.load_state_dict(state, strict=module.strict_loading)
        return loaded

    def make_setup(self, is_pretrained: bool | None) -> TrainingSetup:
        trainer, module = self.trainer, self.module
        with preserve_rng_state(), torch.no_grad(), eval_mode(module):
            self.compute_loss(module, self.batches[0])
        is_single = module.automatic_optimization or self.n_backward_calls == 1
        findings: dict[str, list[Finding]] = {}
        setup = TrainingSetup(
            module,
            self.batches,
            self.compute_loss,
            is_pretrained=has_trained_norms(module) if is_pretrained is None else is_pretrained,
            requested=self.read_requested(),
            optimizer=list(trainer.optimizers),
            scheduler=[config.scheduler for config in trainer.lr_scheduler_configs if self.counts_steps(config)],
            train_step=self.take_step if is_single else None,
            extra_state=[scaler] if (scaler := getattr(trainer.precision_plugin, "scaler", None)) else [],
            save=self.save,
            load=self.load,
            known_findings=findings,
        )
        if trainer.val_dataloaders is not None and trainer.fit_loop.epoch_loop._should_check_val_epoch():
            findings["evaluation"] = list(self._add_evaluation(setup))
        return setup

    def _add_evaluation(self, setup: TrainingSetup) -> Iterator[Finding]:
        setup.evaluate = self.evaluate
        with preserve_rng_state():
            try:
                self.evaluate()
            except KeyError as error:
                setup.evaluate = None
                hint = "Call self.log('val_loss', loss) in validation_step"
                yield warned("validation loss", str(error.args[0]), "a validation loss", hint)
            except Exception:
                return  # the check meets the same error

    def counts_steps(self, config: Any) -> bool:
        """Return whether a scheduler is to be judged by steps: by its interval, or because epochs hardly move it."""
        if config.interval == "step" or config.reduce_on_plateau:
            return True
        return not moves_by_epochs(config.scheduler, max(1, self.trainer.max_epochs or 1))

    def read_requested(self) -> RequestedSettings:
        """Read the length of the run, and the LR from the module's hyperparameters if one group holds everything."""
        lrs = [self.module.hparams[name] for name in LR_NAMES if name in self.module.hparams]
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        size = count_examples(self.batches[0])
        return RequestedSettings(
            lr=lrs[0] if len(lrs) == 1 and len(groups) == 1 else None,
            total_steps=int(self.total_steps) if math.isfinite(self.total_steps) else None,
            batch_size=None if size is None else size * self.trainer.accumulate_grad_batches,
        )


@contextmanager
def _muted(module: Any, trainer: Any, losses: list[Tensor]) -> Iterator[None]:
    """Let `training_step` run on a module outside the loop: without logging, backward passes and updates."""
    kept = dict(module.__dict__)
    module._trainer = trainer
    module.log = module.log_dict = module.toggle_optimizer = module.untoggle_optimizer = lambda *args, **kwargs: None
    module.clip_gradients = lambda *args, **kwargs: None
    module.manual_backward = lambda loss, *args, **kwargs: losses.append(loss)
    if not module.automatic_optimization:
        steps = [(optimizer, optimizer.__dict__.get("step")) for optimizer in trainer.strategy._lightning_optimizers]
        for optimizer, _ in steps:
            optimizer.step = lambda *args, **kwargs: None
            optimizer.zero_grad = lambda *args, **kwargs: None
    try:
        yield
    finally:
        if not module.automatic_optimization:
            for optimizer, step in steps:
                optimizer.__dict__.pop("step")
                optimizer.__dict__.pop("zero_grad")
                if step is not None:
                    optimizer.__dict__["step"] = step
        for name in module.__dict__.keys() - kept.keys():
            del module.__dict__[name]
        module._trainer = kept["_trainer"]
