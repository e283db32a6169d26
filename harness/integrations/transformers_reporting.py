"""Reports of a transformers Trainer to the sweep that runs it."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from harness.core.distributed import is_true_anywhere
from harness.integrations.transformers_diagnosis import find_calling_trainer
from harness.integrations.trial_reports import describe_missing_metric, report_in_all_processes
from harness.sweep.reporting import Interrupted, Pruned

PREFIX = "eval_"  # of the metrics of an evaluation during training


class ReportCallback(TrainerCallback):
    """Reports a metric to the sweep that runs this training, after each evaluation, so that it may be pruned.

    Without a sweep it does nothing. Before a trial that is pruned leaves `trainer.train`, callbacks get `on_train_end`,
    so that loggers close their runs.

    Args:
        metric: Name of the metric, with or without `eval_`. With several evaluation sets, that of one of them, such as
            "eval_NAME_loss". The sweep's direction says whether it is to fall or to rise.

    Raises:
        Pruned: From `trainer.train`, if the pruner stops the trial.
        Interrupted: From `trainer.train`, if the sweep was asked to stop.
        ValueError: From `trainer.train`, if nothing is evaluated or no evaluation has the metric.
    """

    def __init__(self, metric: str = "eval_loss") -> None:
        self.metric = metric if metric.startswith(PREFIX) else PREFIX + metric
        self._is_training = self._has_reported = False
        self._other_names: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
        if strategy == "no":
            raise ValueError(f'ReportCallback: metric: {self.metric!r} needs evaluations; set eval_strategy="epoch"')
        self._is_training, self._has_reported, self._other_names = True, False, set()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        metrics = metrics or {}
        if not self._is_training:
            return
        if self.metric not in metrics:
            self._other_names |= {name for name in metrics if name.startswith(PREFIX)}
            return
        self._has_reported = True
        is_distributed = args.world_size > 1 and torch.distributed.is_initialized()
        decide = is_true_anywhere if is_distributed else bool
        try:
            report_in_all_processes(metrics[self.metric], state.global_step, state.max_steps or None, decide)
        except (Pruned, Interrupted, SystemExit):
            if (trainer := find_calling_trainer()) is not None:
                trainer.callback_handler.on_train_end(args, state, control)
            raise

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check_metric()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._is_training = False
        self._check_metric()

    def _check_metric(self) -> None:
        """Fail after an evaluation without the metric: each of several sets is evaluated on its own, in any order.

        Raises:
            ValueError: If evaluations had other metrics only.
        """
        if self._other_names and not self._has_reported:
            raise ValueError(describe_missing_metric("metric", self.metric, self._other_names))
