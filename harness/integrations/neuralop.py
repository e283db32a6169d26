"""Preflight for the Trainer of neuraloperator: `preflight(trainer, ...)` with the arguments of `trainer.train(...)`."""

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from neuralop.losses import LpLoss
from neuralop.training import Trainer
from neuralop.training.training_state import load_training_state
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from harness.core.seeding import preserve_rng_state
from harness.core.state import eval_mode
from harness.integrations.console import report_setup, report_setup_error, report_unsupported
from harness.integrations.epoch_schedules import moves_by_epochs
from harness.integrations.examples import read_training_data
from harness.preflight import (
    CHECKS,
    EvalResult,
    Finding,
    PreflightReport,
    RequestedSettings,
    TrainingSetup,
    describe_user_error,
)
from harness.preflight.batch_rows import count_examples, select_rows
from harness.preflight.object_state import preserved_attributes, preserved_model, preserved_optimizer
from harness.preflight.report import failed, warned

N_BATCHES, MAX_EVAL = 4, 208
TOLERANCE = 1e-3  # relative difference of two losses


def preflight(
    trainer: Trainer,
    train_loader: Any,
    test_loaders: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    regularizer: Any = None,
    training_loss: Any = None,
    eval_losses: Mapping[str, Any] | None = None,
    *,
    checks: Iterable[str] = CHECKS,
    is_pretrained: bool = False,
    quiet: bool = False,
) -> PreflightReport:
    """Check a training of neural operators before `trainer.train` with the same arguments; leave all as it was.

    Of several test loaders and losses, the first ones are evaluated. Trainer's losses are sums over the samples of a
    batch; here they are divided by its number of samples, in the step, too.
    """
    if trainer.use_distributed:
        return report_unsupported("needs one process; set use_distributed=False", quiet)
    with _preserved(trainer, optimizer, scheduler):
        trainer.optimizer, trainer.scheduler, trainer.regularizer = optimizer, scheduler, regularizer
        training_loss = training_loss or LpLoss(d=2)
        adapter = OperatorAdapter(trainer, train_loader, test_loaders, training_loss, eval_losses)
        try:
            setup = adapter.make_setup(is_pretrained)
        except Exception as error:
            return report_setup_error("the first batch", error, quiet)
        return report_setup(setup, checks, quiet)


class OperatorAdapter:
    """Functions that do what the trainer does, on one that holds optimizer, scheduler and regularizer."""

    def __init__(
        self,
        trainer: Any,
        train_loader: Any,
        test_loaders: Mapping[str, Any],
        training_loss: Any,
        eval_losses: Mapping[str, Any] | None,
    ) -> None:
        self.trainer, self.train_loader, self.test_loaders = trainer, train_loader, test_loaders
        self.training_loss, self.eval_losses = training_loss, eval_losses or {"l2": training_loss}
        self.is_sum = True
        trainer.model = trainer.model.to(trainer.device)
        if trainer.data_processor is not None:
            trainer.data_processor = trainer.data_processor.to(trainer.device)
        trainer.on_epoch_start(0)
        trainer.n_samples = 0

    def compute_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss per sample, without clearing gradients."""
        trainer = self.trainer
        kept = trainer.model, trainer.optimizer
        trainer.model, trainer.optimizer = model, _IdleOptimizer()
        if trainer.data_processor is not None:
            trainer.data_processor.train()  # in eval mode, the targets stay as they are and the output is decoded
        try:
            return trainer.train_one_batch(1, dict(batch), self.training_loss) / self.count_divisor(batch)
        finally:
            trainer.model, trainer.optimizer = kept

    def take_step(self, batch: Any) -> None:
        """Make one update as in `train_one_epoch`."""
        trainer = self.trainer
        trainer.model.train()
        if trainer.data_processor is not None:
            trainer.data_processor.train()
        loss = trainer.train_one_batch(1, dict(batch), self.training_loss) / self.count_divisor(batch)
        loss.backward()
        trainer.optimizer.step()

    def count_divisor(self, batch: Any) -> int:
        return len(batch["y"]) if self.is_sum and isinstance(batch.get("y"), Tensor) else 1

    def evaluate(self, batch_size: int) -> EvalResult:
        """Return the first loss on the first samples of the first test loader."""
        (name, loader), (loss_name, loss) = next(iter(self.test_loaders.items())), next(iter(self.eval_losses.items()))
        samples = Subset(loader.dataset, range(min(MAX_EVAL, len(loader.dataset))))
        batches: Any = DataLoader(samples, batch_size, collate_fn=loader.collate_fn)
        errors = self.trainer.evaluate({loss_name: loss}, batches, log_prefix=name)
        return EvalResult(float(errors[f"{name}_{loss_name}"]), self.trainer.n_samples, "per sample")

    def save(self, folder: Path) -> None:
        self.trainer.save_best = None
        self.trainer.checkpoint(folder)

    def load(self, folder: Path) -> nn.Module:
        loaded = copy.deepcopy(self.trainer.model)
        with torch.no_grad():
            for parameter in loaded.parameters():
                parameter.add_(torch.randn_like(parameter) * parameter.requires_grad)
        # neuraloperator saves more than tensors; the file was written by `save` just before.
        loaded.load_state_dict(torch.load(folder / "model_state_dict.pt", weights_only=False))
        return loaded

    def _check_resuming(self) -> Iterator[Finding]:
        """Find checkpoints that `resume_from_dir` cannot read."""
        with TemporaryDirectory() as folder:
            self.save(Path(folder))
            try:
                load_training_state(folder, "model", copy.deepcopy(self.trainer.model))
            except Exception as error:
                observed = f"load_training_state, for resume_from_dir, raises {describe_user_error(error)}"
                hint = "Load model_state_dict.pt yourself: model.load_state_dict(torch.load(file, weights_only=False))"
                yield warned("resuming", observed, "checkpoints that can be read", hint)

    def make_setup(self, is_pretrained: bool) -> TrainingSetup:
        trainer, model = self.trainer, self.trainer.model
        batches = list(islice(self.train_loader, N_BATCHES))
        with preserve_rng_state(), torch.no_grad(), eval_mode(model):
            self.is_sum = self.measure_sum(batches[0])
        steps, rows = len(self.train_loader) * trainer.n_epochs, count_examples(batches[0])
        is_plateau = hasattr(trainer.scheduler, "patience")
        by_epochs = not is_plateau and moves_by_epochs(trainer.scheduler, trainer.n_epochs)
        dataset = next(iter(self.test_loaders.values())).dataset if self.test_loaders else None
        can_save = hasattr(model, "save_checkpoint")
        setup = TrainingSetup(
            model,
            batches,
            self.compute_loss,
            is_pretrained=is_pretrained,
            zero_output_loss=self.measure_zero_output(batches[0]),
            requested=RequestedSettings(total_steps=steps, batch_size=rows, evals=trainer.n_epochs),
            optimizer=trainer.optimizer,
            scheduler=None if by_epochs else trainer.scheduler,
            train_step=self.take_step,
            extra_state=[] if trainer.data_processor is None else [trainer.data_processor],
            batch_size=rows,
            evaluate=self.evaluate if self.test_loaders else None,
            save=self.save if can_save else None,
            load=self.load if can_save else None,
            data=read_training_data(self.train_loader.dataset, dataset),
            known_findings={
                "loss_form": list(self._check_sums()),
                "reload": list(self._check_resuming()) if can_save else [],
            },
        )
        if dataset is not None:
            setup.eval_fraction = min(1.0, MAX_EVAL / max(1, len(dataset)))
        return setup

    def measure_sum(self, batch: Any) -> bool:
        """Return whether the training loss of a batch is a sum over its samples."""
        rows = len(batch["y"])
        self.is_sum = False
        whole = self.compute_loss(self.trainer.model, batch).item()
        doubled = self.compute_loss(self.trainer.model, select_rows(batch, torch.arange(2 * rows) % rows, rows)).item()
        return abs(doubled - 2 * whole) < abs(doubled - whole)

    def measure_zero_output(self, batch: Any) -> float | None:
        """Return 1 if the loss is a relative error: that of an output of 0."""
        sample = dict(batch)
        if self.trainer.data_processor is not None:
            self.trainer.data_processor.train()
            sample = self.trainer.data_processor.preprocess(sample)
        try:
            loss = self.training_loss(torch.zeros_like(sample["y"]), **sample) / self.count_divisor(batch)
        except (TypeError, RuntimeError):  # a loss that needs more than output and targets
            return None
        return 1.0 if abs(loss.item() - 1) < TOLERANCE else None

    def _check_sums(self) -> Iterator[Finding]:
        means = [name for name, loss in self.eval_losses.items() if getattr(loss, "reduction", "sum") == "mean"]
        if not self.is_sum or means:
            which = "training_loss" if not self.is_sum else f"eval_losses[{means[0]!r}]"
            observed = (
                f"{which} is a mean over the batch, and the Trainer divides it by the number of samples once more"
            )
            hint = "Use reduction='sum', the default of LpLoss and H1Loss: the reported errors are too small"
            yield failed("losses", observed, "sums over the samples of a batch", hint)


class _IdleOptimizer:
    """Stands in for the optimizer, which `train_one_batch` asks to clear gradients."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


@contextmanager
def _preserved(trainer: Any, optimizer: torch.optim.Optimizer, scheduler: Any) -> Iterator[None]:
    """Restore trainer, model, optimizer, scheduler and all random generators on exit; print nothing."""
    with ExitStack() as stack:
        stack.enter_context(preserve_rng_state())
        stack.enter_context(preserved_model(trainer.model))
        if trainer.data_processor is not None:
            stack.enter_context(preserved_model(trainer.data_processor))
        stack.enter_context(preserved_attributes([scheduler]))
        stack.enter_context(preserved_optimizer(optimizer))
        stack.enter_context(preserved_attributes([trainer]))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield
