"""For a Trainer of transformers: `preflight(trainer)` in the line before `trainer.train()`, and callbacks."""

from collections.abc import Iterable
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from harness.integrations.console import report_setup, report_setup_error, report_unsupported
from harness.integrations.transformers_diagnosis import DiagnosisCallback as DiagnosisCallback
from harness.integrations.transformers_diagnosis import find_calling_trainer
from harness.integrations.transformers_reporting import ReportCallback as ReportCallback
from harness.integrations.transformers_setup import TrainerAdapter
from harness.integrations.transformers_state import describe_unsupported, prepare_for_steps, preserved_trainer
from harness.preflight import CHECKS, PreflightReport


def preflight(
    trainer: Trainer, checks: Iterable[str] = CHECKS, *, is_pretrained: bool | None = None, quiet: bool = False
) -> PreflightReport:
    """Check a trainer before `trainer.train()`, and leave it as it was.

    Args:
        trainer: A Trainer or a subclass, such as SFTTrainer, that is ready to train.
        checks: Names of checks; all by default.
        is_pretrained: Whether weights were loaded; by default, norms whose weights differ say so.
        quiet: Print nothing; otherwise findings are printed as they come.

    Nothing is written to `output_dir` and nothing is logged; callbacks are not called.
    """
    return _check_trainer(trainer, checks, is_pretrained, quiet, optimizer_is_given=trainer.optimizer is not None)


class PreflightCallback(TrainerCallback):
    """Runs preflight when training begins, and ends it before the first step if a check fails.

    Raises:
        PreflightFailedError: From `trainer.train()`, with the failing findings, the cause first.
    """

    def __init__(
        self, checks: Iterable[str] = CHECKS, *, is_pretrained: bool | None = None, quiet: bool = False
    ) -> None:
        self.checks, self.is_pretrained, self.quiet = list(checks), is_pretrained, quiet
        self.optimizer_is_given = False

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.optimizer_is_given = kwargs.get("optimizer") is not None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = find_calling_trainer()
        if trainer is None:
            raise RuntimeError("PreflightCallback: on_train_begin must be called by a Trainer")
        report = _check_trainer(
            trainer, self.checks, self.is_pretrained, self.quiet, self.optimizer_is_given, is_prepared=True
        )
        report.raise_if_failed()


def _check_trainer(
    trainer: Trainer,
    checks: Iterable[str],
    is_pretrained: bool | None,
    quiet: bool,
    optimizer_is_given: bool,
    is_prepared: bool = False,
) -> PreflightReport:
    if reason := describe_unsupported(trainer):
        return report_unsupported(reason, quiet)
    with preserved_trainer(trainer):
        what = "the Trainer"
        try:
            max_steps = prepare_for_steps(trainer, is_prepared)
            adapter = TrainerAdapter(trainer, max_steps, optimizer_is_given)
            what = "the training data loader"
            adapter.read_batches()
            what = "the loss of the first batch"
            adapter.try_loss()
            what = "the Trainer"
            setup = adapter.make_setup(is_pretrained)
        except Exception as error:
            return report_setup_error(what, error, quiet)
        return report_setup(setup, checks, quiet)
