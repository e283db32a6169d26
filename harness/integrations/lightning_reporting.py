"""Reports of a Trainer of Lightning to the sweep that runs it."""

from lightning.pytorch import Callback, LightningModule, Trainer

from harness.integrations.lightning_diagnosis import count_steps, find_total_steps
from harness.integrations.trial_reports import describe_missing_metric, report_in_all_processes


class ReportCallback(Callback):
    """Reports a logged metric to the sweep that runs this training, after each validation, so that it may be pruned.

    Without validation, it reports at the end of each training epoch. Without a sweep it does nothing. A trial that is
    pruned leaves `trainer.fit` as any error does: callbacks get `on_exception`, and loggers finalize as "failed".

    Args:
        monitor: Name of the metric, such as "val/loss". The sweep's direction says whether it is to fall or to rise.

    Raises:
        Pruned: From `trainer.fit`, if the pruner stops the trial.
        Interrupted: From `trainer.fit`, if the sweep was asked to stop.
        ValueError: From `trainer.fit`, if the metric was not logged.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._report(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            self._report(trainer, pl_module)

    def _report(self, trainer: Trainer, module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            raise ValueError(describe_missing_metric("monitor", self.monitor, metrics))
        report_in_all_processes(
            metrics[self.monitor],
            count_steps(trainer, module),
            find_total_steps(trainer, module),
            lambda is_over: trainer.strategy.reduce_boolean_decision(is_over, all=False),
        )
