"""For a LightningModule: `preflight(module, datamodule=...)` in the line before `trainer.fit(...)`, and callbacks."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from harness.core.seeding import preserve_rng_state
from harness.integrations.console import report_setup, report_setup_error, report_unsupported
from harness.integrations.lightning_diagnosis import DiagnosisCallback as DiagnosisCallback
from harness.integrations.lightning_reporting import ReportCallback as ReportCallback
from harness.integrations.lightning_setup import ModuleAdapter
from harness.preflight import CHECKS, PreflightReport
from harness.preflight.object_state import preserved_attributes, preserved_model

EVAL_BATCHES = 16
COPIED = ("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "max_epochs", "max_steps")


def preflight(
    module: LightningModule,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    *,
    datamodule: Any = None,
    trainer: Trainer | None = None,
    checks: Iterable[str] = CHECKS,
    is_pretrained: bool | None = None,
    quiet: bool = False,
) -> PreflightReport:
    """Check a module with its data before `trainer.fit`, and leave both as they were.

    Args:
        module: The module to train.
        train_dataloaders: Loader of training batches, unless a datamodule has it.
        val_dataloaders: Loaders of validation batches, of which the first EVAL_BATCHES are evaluated.
        datamodule: Instead of the loaders.
        trainer: The trainer that will fit the module; clipping, accumulation, precision, device and length of the run
            are taken from it. Its callbacks and loggers are not called.
        checks: Names of checks; all by default.
        is_pretrained: Whether weights were loaded; by default, norms whose weights differ say so.
        quiet: Print nothing; otherwise findings are printed as they come.
    """
    if trainer is not None and (processes := trainer.num_devices * trainer.num_nodes) > 1:
        return report_unsupported(f"needs one device, not {processes}; give a Trainer(devices=1)", quiet)
    runner = _CheckingCallback(module, list(checks), is_pretrained, quiet)
    with _preserved(module, datamodule, trainer):
        try:
            checker = _make_trainer(trainer, runner)
            checker.fit(module, train_dataloaders, val_dataloaders, datamodule=datamodule)
        except _ChecksDone:
            assert runner.report is not None
            return runner.report
        except Exception as error:
            return report_setup_error("Trainer.fit, before its first step,", error, quiet)
    return report_unsupported("needs batches: Trainer.fit ended before its first step", quiet)


class _ChecksDone(Exception):
    """Ends `fit` before its first step."""


class _CheckingCallback(Callback):
    """Runs the checks when everything is set up for the first step."""

    def __init__(self, module: LightningModule, checks: list[str], is_pretrained: bool | None, quiet: bool) -> None:
        self.module, self.checks, self.is_pretrained, self.quiet = module, checks, is_pretrained, quiet
        self.report: PreflightReport | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        setup = ModuleAdapter(trainer, pl_module).make_setup(self.is_pretrained)
        self.report = report_setup(setup, self.checks, self.quiet)
        raise _ChecksDone


def _make_trainer(trainer: Trainer | None, runner: Callback) -> Trainer:
    """Return a trainer with the numbers of another one, that logs, saves and shows nothing."""
    options: dict[str, Any] = {"accelerator": "auto", "max_epochs": 1}
    if trainer is not None:
        options = {name: getattr(trainer, name) for name in COPIED}
        options["precision"] = trainer.precision_plugin.precision
        options["accelerator"] = "cpu" if trainer.strategy.root_device.type == "cpu" else "gpu"
    return Trainer(
        callbacks=[runner],
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=EVAL_BATCHES,
        **options,
    )


@contextmanager
def _preserved(module: LightningModule, datamodule: Any, trainer: Trainer | None) -> Iterator[None]:
    """Restore the module, the data and all random generators on exit; silence Lightning."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with ExitStack() as stack:
            stack.enter_context(preserve_rng_state())
            stack.enter_context(preserved_model(module))
            if datamodule is not None:
                stack.enter_context(preserved_attributes([datamodule]))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
