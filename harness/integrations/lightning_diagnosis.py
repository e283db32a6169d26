"""Diagnosis of a LightningModule while a Trainer of Lightning trains it."""

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from harness.core.events import Diagnosis
from harness.core.terminal import fit_record
from harness.diagnosis.dialects import LIGHTNING_MONITOR
from harness.diagnosis.history import LOSS_METRICS, RunFacts
from harness.importers.metric_aliases import canonical_name
from harness.importers.programs.lr_schedules import parse_schedule_name
from harness.integrations.live_diagnosis import (
    METRIC_PREFIX,
    LoopDiagnosis,
    describe_as_tags,
    disable_on_error,
    is_not_finite,
    parse_stop_kinds,
)
from harness.integrations.model_weights import has_bad_weights

ROWS_PER_RUN = 500  # of the training loss, at least as many as the trainer logs
REPLICATED_STRATEGIES = ("SingleDevice", "DDP")  # each process holds all gradients


class DiagnosisCallback(Callback):
    """Diagnoses a training while it runs, from the loss of each step and the logged validation loss.

    Each finding is printed once and logged to the trainer's loggers as the metric `diagnosis/KIND`, with the
    confidence as its value; a run of an MLFlowLogger gets the tag `diagnosis.KIND` with the reason. A summary follows
    at the end. The training itself is not changed, unless a diagnosis in `stop_on` ends it.

    The training loss is what `training_step` returns or, with manual optimization, else a logged metric such as
    `train_loss`. The validation loss is the first logged metric whose name has `val` and `loss`.

    Args:
        stop_on: Kinds of diagnoses that end the training, such as {"divergence"}.
        quiet: Print nothing.

    Raises:
        ValueError: If a name in `stop_on` is no diagnosis.
    """

    def __init__(self, *, stop_on: Collection[str] | str = (), quiet: bool = False) -> None:
        self._stop_kinds, self._quiet = parse_stop_kinds(stop_on), quiet
        self._loop: LoopDiagnosis | None = None
        self._restored: dict[str, Any] = {}
        self.is_disabled = False
        self._every = 1

    @property
    def diagnoses(self) -> list[Diagnosis]:
        """Return everything found so far."""
        return [] if self._loop is None else self._loop.found

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.is_disabled, self._loop = False, None
        total = find_total_steps(trainer, pl_module)
        logged_every = getattr(trainer, "log_every_n_steps", 0) or 1
        self._every = logged_every if total is None else max(1, min(logged_every, total // ROWS_PER_RUN))
        self._row_step = count_steps(trainer, pl_module)
        self._loss_sum: Any = 0.0
        self._n_losses = 0
        self._grad_norm: Tensor | None = None
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._begin(trainer, pl_module, total)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._loop is not None and (count_steps(trainer, pl_module) + 1) % self._every == 0:
            self._measure_norm(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._loop is not None:
            self._add_loss(trainer, outputs)
        step = count_steps(trainer, pl_module)
        if step > self._row_step and step % self._every == 0:  # the same in all processes
            self._row_step = step
            if self._loop is not None:
                self._add_training_row(trainer, pl_module, step)
            self._agree_to_stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self._loop is not None:
            self._add_evaluation(trainer, pl_module)
        self._agree_to_stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loop is not None:
            is_stopped = trainer.should_stop and self._loop.stop_kind is not None
            self._conclude(trainer, is_complete=not trainer.should_stop, is_stopped=is_stopped)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._loop is not None and trainer.state.fn == "fit":
            self._conclude(trainer, is_complete=False)

    def state_dict(self) -> dict[str, Any]:
        if self._loop is None:
            return {}
        history = self._loop.history
        curves = {name: [part.tolist() for part in history[name]] for name in history.metric_names()}
        return {"curves": curves, "found": {one.kind: one.step for one in self._loop.found}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    @disable_on_error
    def _begin(self, trainer: Trainer, module: LightningModule, total_steps: int | None) -> None:
        self._loop = LoopDiagnosis(
            read_facts(trainer, total_steps),
            stop_on=self._stop_kinds,
            quiet=self._quiet,
            write=lambda text: module.print(fit_record(text)),
        )
        restored, self._restored = self._restored, {}
        curves = restored.get("curves", {})
        rows = [(step, {name: value}) for name, points in curves.items() for step, value in zip(*points, strict=True)]
        self._loop.restore_rows(rows, restored.get("found", {}))

    @disable_on_error
    def _measure_norm(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the norm before clipping, as a tensor: reading it would wait for the device."""
        is_replicated = type(trainer.strategy).__name__.startswith(REPLICATED_STRATEGIES)
        if module.automatic_optimization and is_replicated:
            gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
            with suppress(RuntimeError, TypeError):  # such as for sparse gradients: no norm then
                self._grad_norm = torch.nn.utils.get_total_norm(gradients)

    @disable_on_error
    def _add_loss(self, trainer: Trainer, outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._loss_sum = self._loss_sum + loss.detach()
            self._n_losses += 1

    @disable_on_error
    def _add_training_row(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert self._loop is not None
        row: dict[str, float] = {}
        if self._n_losses:
            # Lightning has divided each loss by the number of micro-batches of a step
            divisor = trainer.accumulate_grad_batches if module.automatic_optimization else 1
            row["train_loss"] = float(self._loss_sum) * divisor / self._n_losses
        elif (name := _find_name(trainer.callback_metrics, "train/loss")) is not None:
            row["train_loss"] = float(trainer.callback_metrics[name])
        if trainer.optimizers:
            row["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        norm = None if self._grad_norm is None else float(self._grad_norm)
        has_scaler = getattr(trainer.precision_plugin, "scaler", None) is not None
        if norm is not None and (math.isfinite(norm) or not has_scaler):  # a scaler skips such steps, which is harmless
            row["grad_norm"] = norm
        self._loss_sum, self._n_losses, self._grad_norm = 0.0, 0, None
        if is_not_finite(self._loop.select_metrics(row)) and has_bad_weights(module):
            self._loop.confirm_divergence()
        self._publish(trainer, self._loop.add_row(step, row))

    @disable_on_error
    def _add_evaluation(self, trainer: Trainer, module: LightningModule) -> None:
        assert self._loop is not None
        if len(trainer.optimizers) > 1 and not len(self._loop.history["train/loss"]):
            self._loop.give_up("several optimizers and no metric train_loss: no single loss says how well it learns")
            self.is_disabled = True
        elif (name := _find_name(trainer.callback_metrics, "val/loss")) is not None:
            self._loop.wordings = {LIGHTNING_MONITOR: f'monitor="{name}"'}
            row = {"val_loss": float(trainer.callback_metrics[name])}
            self._publish(trainer, self._loop.add_row(count_steps(trainer, module), row))

    @disable_on_error
    def _conclude(self, trainer: Trainer, is_complete: bool, is_stopped: bool = False) -> None:
        assert self._loop is not None
        self._publish(trainer, self._loop.conclude(is_complete, is_stopped))

    def _agree_to_stop(self, trainer: Trainer) -> None:
        """Stop in all processes at once."""
        if self._stop_kinds:
            is_stopping = self._loop is not None and self._loop.stop_kind is not None
            trainer.should_stop |= trainer.strategy.reduce_boolean_decision(is_stopping, all=False)

    def _publish(self, trainer: Trainer, diagnoses: list[Diagnosis]) -> None:
        """Log what was found to each logger."""
        loggers: list[Any] = trainer.loggers if diagnoses else []
        for logger in loggers:
            logger.log_metrics({METRIC_PREFIX + one.kind: one.confidence for one in diagnoses}, step=self._row_step)
            if type(logger).__name__ == "MLFlowLogger":
                for tag, text in describe_as_tags(diagnoses).items():
                    logger.experiment.set_tag(logger.run_id, tag, text)


def read_facts(trainer: Trainer, total_steps: int | None) -> RunFacts:
    """Return what the trainer and its first optimizer say of the run."""
    optimizer = trainer.optimizers[0] if trainer.optimizers else None
    group: Mapping[str, Any] = optimizer.param_groups[0] if optimizer is not None else {}
    config = trainer.lr_scheduler_configs[0] if trainer.lr_scheduler_configs else None
    is_plateau = config is not None and config.reduce_on_plateau
    batches = trainer.num_training_batches / trainer.accumulate_grad_batches
    has_epochs = trainer.max_steps == -1
    length = ("loop.epochs", trainer.max_epochs or 1) if has_epochs else ("loop.max_steps", trainer.max_steps)
    is_norm_clipped = (trainer.gradient_clip_algorithm or "norm") == "norm"
    return RunFacts(
        program="lightning",
        total_steps=total_steps,
        steps_per_epoch=math.ceil(batches) if math.isfinite(batches) else None,
        optimizer=None if optimizer is None else type(optimizer).__name__,
        peak_lr=group.get("lr") if config is None else None,  # with a schedule, the highest one of the curve
        grad_clip=float(trainer.gradient_clip_val or 0) or None if is_norm_clipped else None,
        weight_decay=group.get("weight_decay"),
        schedule=None if config is None else parse_schedule_name(type(config.scheduler).__name__),
        monitor=_find_loss(config.monitor or "") if config is not None and is_plateau else None,
        patience=getattr(config.scheduler, "patience", None) if config is not None and is_plateau else None,
        length=None if total_steps is None else length,
    )


def find_total_steps(trainer: Trainer, module: LightningModule) -> int | None:
    """Return the length of the run in optimizer steps, with manual optimization in batches; None if unknown."""
    if module.automatic_optimization:
        total = trainer.estimated_stepping_batches
    else:
        total = trainer.num_training_batches * (trainer.max_epochs or -1) if trainer.max_steps == -1 else -1
    return int(total) if 0 < total < math.inf else None


def count_steps(trainer: Trainer, module: LightningModule) -> int:
    """Return the optimizer steps made so far. With manual optimization, where a batch may have several, the batches."""
    return trainer.global_step if module.automatic_optimization else trainer.fit_loop.epoch_loop.total_batch_idx + 1


def _find_loss(name: str) -> str | None:
    """Return the loss that a logged metric stands for; of several validation loaders, the first one counts."""
    bare = name.removesuffix("/dataloader_idx_0")
    words = bare.lower()
    is_val_loss = "val" in words and "loss" in words and "dataloader_idx_" not in words
    if (metric := canonical_name(bare)) in LOSS_METRICS:
        return metric
    return "val/loss" if is_val_loss and not words.endswith("_step") else None


def _find_name(metrics: Mapping[str, Any], metric: str) -> str | None:
    """Return the name of the first logged metric that stands for `metric`."""
    return next((name for name in metrics if _find_loss(name) == metric), None)
