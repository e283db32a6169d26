"""Reports of a Trainer of Lightning to the sweep that runs it."""

import os
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from harness.core.seeding import get_rng_state, set_rng_state
from harness.integrations.lightning_diagnosis import count_steps, find_total_steps
from harness.integrations.trial_reports import describe_missing_metric, report_in_all_processes


class ReportCallback(Callback):
    """Reports a logged metric to the sweep that runs this training, after each validation, so that it may be pruned.

    Without validation, it reports at the end of each training epoch. It also reports the newest checkpoint of the
    trainer's ModelCheckpoint, so that the trial may be paused: `harness.sweep.resume_from()` returns it when the trial
    is continued, for `trainer.fit(..., ckpt_path=...)`. A value is reported when the next batch begins, after a
    checkpoint of the same step. Without a sweep it does nothing. A trial that is pruned or paused leaves `trainer.fit`
    as any error does: callbacks get `on_exception`, and loggers finalize as "failed".

    In a single process, checkpoints also hold the states of random generators, which Lightning leaves out, so that a
    training that is continued after an epoch shuffles and drops out as if nothing had interrupted it.

    Args:
        monitor: Name of the metric, such as "val/loss". The sweep's direction says whether it is to fall or to rise.

    Raises:
        Pruned: From `trainer.fit`, if the pruner stops the trial.
        Paused: From `trainer.fit`, if the sweep pauses the trial.
        Interrupted: From `trainer.fit`, if the sweep was asked to stop.
        ValueError: From `trainer.fit`, if the metric was not logged.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self._unreported: tuple[Any, int, int | None] | None = None  # a value, its step, and that of the end

        self._saved_random: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"random": get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved_random = state_dict.get("random")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unreported = None
        if self._saved_random is not None and trainer.world_size == 1:
            set_rng_state(self._saved_random)
        self._saved_random = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._take_value(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            self._take_value(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._report(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer)

    def _take_value(self, trainer: Trainer, module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            raise ValueError(describe_missing_metric("monitor", self.monitor, metrics))
        value = metrics[self.monitor]
        self._unreported = value, count_steps(trainer, module), find_total_steps(trainer, module)

    def _report(self, trainer: Trainer) -> None:
        """Report the last value, unless that has been done."""
        if self._unreported is None:
            return
        (value, step, total_steps), self._unreported = self._unreported, None
        report_in_all_processes(
            value,
            step,
            total_steps,
            lambda is_over: trainer.strategy.reduce_boolean_decision(is_over, all=False),
            find_newest_checkpoint(trainer),
        )


def find_newest_checkpoint(trainer: Trainer) -> str | None:
    """Return the checkpoint that was saved last, with the state of the optimizer; None if there is none on disk."""
    paths: set[str] = set()
    for callback in trainer.checkpoint_callbacks:
        if not getattr(callback, "save_weights_only", False):
            names = (getattr(callback, "last_model_path", ""), getattr(callback, "best_model_path", ""))
            paths.update(filter(os.path.exists, (*names, *getattr(callback, "best_k_models", ()))))
    return max(paths, key=os.path.getmtime, default=None)
