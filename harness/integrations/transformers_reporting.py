"""Reports of a transformers Trainer to the sweep that runs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from harness.core.distributed import is_true_anywhere
from harness.integrations.transformers_diagnosis import find_calling_trainer
from harness.integrations.trial_reports import describe_missing_metric, report_in_all_processes
from harness.sweep.reporting import Interrupted, Paused, Pruned

PREFIX = "eval_"  # of the metrics of an evaluation during training


class ReportCallback(TrainerCallback):
    """Reports a metric to the sweep that runs this training, after each evaluation, so that it may be pruned or paused.

    It also reports the newest checkpoint that the trainer has saved for `trainer.train(resume_from_checkpoint=...)`:
    `harness.sweep.resume_from()` returns it when a paused trial is continued. An evaluation is reported when the step
    is over, after a checkpoint of the same step. Without a sweep it does nothing. Before a trial that is pruned or
    paused leaves `trainer.train`, callbacks get `on_train_end`, so that loggers close their runs.

    Args:
        metric: Name of the metric, with or without `eval_`. With several evaluation sets, that of one of them, such as
            "eval_NAME_loss". The sweep's direction says whether it is to fall or to rise.

    Raises:
        Pruned: From `trainer.train`, if the pruner stops the trial.
        Paused: From `trainer.train`, if the sweep pauses the trial.
        Interrupted: From `trainer.train`, if the sweep was asked to stop.
        ValueError: From `trainer.train`, if nothing is evaluated or no evaluation has the metric.
    """

    def __init__(self, metric: str = "eval_loss") -> None:
        self.metric = metric if metric.startswith(PREFIX) else PREFIX + metric
        self._is_training = self._has_reported = False
        self._other_names: set[str] = set()
        self._checkpoint: str | None = None
        self._unreported: tuple[Any, int] | None = None  # a value and its step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
        if strategy == "no":
            raise ValueError(f'ReportCallback: metric: {self.metric!r} needs evaluations; set eval_strategy="epoch"')
        self._is_training, self._has_reported, self._other_names = True, False, set()
        self._checkpoint = self._unreported = None

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
        self._unreported = metrics[self.metric], state.global_step
        if state.global_step >= state.max_steps:  # nothing is paused at the end
            self._report(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remember a checkpoint with all that a training needs to continue."""
        path = Path(args.output_dir or "", f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if not args.save_only_model and (path / TRAINER_STATE_NAME).is_file():
            self._checkpoint = str(path)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._report(args, state, control)
        self._check_metric()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._is_training = False
        self._report(args, state, control)
        self._check_metric()

    def _report(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """Report the last evaluation, unless that has been done."""
        if self._unreported is None:
            return
        (value, step), self._unreported = self._unreported, None
        is_distributed = args.world_size > 1 and torch.distributed.is_initialized()
        decide = is_true_anywhere if is_distributed else bool
        try:
            report_in_all_processes(value, step, state.max_steps or None, decide, self._checkpoint)
        except (Pruned, Paused, Interrupted, SystemExit):
            trainer = find_calling_trainer()
            if trainer is not None and self._is_training:
                self._is_training = False
                trainer.callback_handler.on_train_end(args, state, control)
            raise

    def _check_metric(self) -> None:
        """Fail after an evaluation without the metric: each of several sets is evaluated on its own, in any order.

        Raises:
            ValueError: If evaluations had other metrics only.
        """
        if self._other_names and not self._has_reported:
            raise ValueError(describe_missing_metric("metric", self.metric, self._other_names))
