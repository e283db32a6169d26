"""`ReportCallback` with Trainers of Lightning."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, IterableDataset

pytest.importorskip("lightning")
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from harness.integrations.lightning import ReportCallback
from harness.sweep import Interrupted, Paused, Pruned, resume_from
from harness.sweep.reporting import receive_reports
from tests.integrations.test_lightning import Classifier, Manual, make_loader
from tests.sweep.test_reporting import Notes

ROOT = Path(__file__).parents[2]
SILENT = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
SAVING = {"enable_checkpointing": True}
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Scored(Classifier):
    """Logs an accuracy in the manner of lightning-hydra-template."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())


class Unvalidated(Classifier):
    validation_step = LightningModule.validation_step  # type: ignore[assignment]


def fit(module: Any, *callbacks: Callback, **more: Any) -> Trainer:
    torch.manual_seed(0)
    loaders = more.pop("loaders", [make_loader(1, True), make_loader(2, False)])
    checkpoint = more.pop("ckpt_path", None)
    trainer = Trainer(accelerator="cpu", callbacks=list(callbacks), **{**SILENT, "max_epochs": 3, **more})
    trainer.fit(module, *loaders, ckpt_path=checkpoint)
    return trainer


def test_the_metric_is_reported_at_each_validation_but_not_in_the_sanity_check() -> None:
    notes = Notes()
    with receive_reports(notes):
        trainer = fit(Scored(), ReportCallback("val/acc"), num_sanity_val_steps=2)
        assert notes[-1][0] == trainer.callback_metrics["val/acc"].item()
        trainer.validate(trainer.lightning_module, make_loader(2, False), verbose=False)
    assert [(step, total) for _, step, total in notes] == [(10, 30), (20, 30), (30, 30)]


@pytest.mark.parametrize(
    ("module", "settings", "places"),
    [
        (Scored, {"max_steps": 8, "val_check_interval": 4}, [(4, 8), (8, 8)]),
        (Scored, {"accumulate_grad_batches": 2, "max_epochs": 2}, [(5, 10), (10, 10)]),
        (Scored, {"max_epochs": -1, "max_steps": 20}, [(10, 20), (20, 20)]),
        (Manual, {"max_epochs": 2}, [(10, 20), (20, 20)]),
        (Unvalidated, {"max_epochs": 2}, [(10, 20), (20, 20)]),
        (Scored, {"max_epochs": 2, "limit_val_batches": 0}, [(10, 20), (20, 20)]),
    ],
)
def test_steps_and_their_total_are_those_of_the_optimizer(
    module: type[Classifier], settings: dict[str, Any], places: list[tuple[int, int]]
) -> None:
    is_validated = module is not Unvalidated and settings.get("limit_val_batches") != 0
    monitor = {Scored: "val/acc", Manual: "val_loss"}[module] if is_validated else "train_loss"  # type: ignore[index]
    notes = Notes()
    with receive_reports(notes):
        fit(module(), ReportCallback(monitor), **settings)
    assert [(step, total) for _, step, total in notes] == places


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from make_loader(1, True).dataset


def test_the_length_of_a_stream_is_unknown() -> None:
    notes = Notes()
    with receive_reports(notes):
        fit(
            Scored(),
            ReportCallback("val/acc"),
            max_epochs=2,
            loaders=[DataLoader(Endless(), 16), make_loader(2, False)],
        )
    assert [(step, total) for _, step, total in notes] == [(10, None), (20, None)]


@pytest.mark.parametrize("saving", [{}, {"save_last": True}, {"monitor": "val_loss", "save_top_k": -1}])
def test_a_paused_training_continues_as_if_nothing_had_happened(saving: dict[str, Any], tmp_path: Path) -> None:
    """With dropout, batch norm, shuffled batches, and the end of the third of five epochs."""

    def train(folder: Path, notes: Notes, checkpoint: str | None = None) -> Trainer:
        torch.manual_seed(0)
        callbacks = [ReportCallback("val_loss"), ModelCheckpoint(folder, **saving)]
        with receive_reports(notes, checkpoint):
            settings = {"max_epochs": 5, "enable_checkpointing": True, "num_sanity_val_steps": 2}
            return fit(Classifier(), *callbacks, **settings, ckpt_path=resume_from())

    alone, first, second = Notes(), Notes(), Notes()
    whole = train(tmp_path / "alone", alone)
    first.end = 30, Paused("at 60%")
    with pytest.raises(Paused):
        train(tmp_path / "paused", first)
    checkpoint = first.checkpoints[-1]
    assert checkpoint is not None
    assert checkpoint.startswith(str(tmp_path / "paused"))
    torch.manual_seed(7)
    continued = train(tmp_path / "paused", second, checkpoint)
    assert [step for _, step, _ in (*first, *second)] == [10, 20, 30, 40, 50]
    assert [*first, *second] == alone
    for before, after in zip(whole.lightning_module.parameters(), continued.lightning_module.parameters(), strict=True):
        assert torch.equal(before, after)


def test_weights_alone_are_no_checkpoint_to_continue_from(tmp_path: Path) -> None:
    notes = Notes()
    with receive_reports(notes):
        fit(Scored(), ReportCallback("val/acc"), ModelCheckpoint(tmp_path, save_weights_only=True), **SAVING)
    assert notes.checkpoints == [None, None, None]


class FinalLogger(CSVLogger):
    status = ""

    def finalize(self, status: str) -> None:
        super().finalize(status)
        self.status = status


@pytest.mark.parametrize("error", [Pruned("after 33% of the run"), Interrupted("stop"), OSError("no storage")])
def test_the_end_of_a_trial_arrives_at_the_caller_of_fit(error: Exception, tmp_path: Path) -> None:
    notes, logger = Notes(), FinalLogger(str(tmp_path))
    notes.end = 10, error
    with receive_reports(notes), pytest.raises(type(error), match=str(error)):
        fit(Scored(), ReportCallback("val/acc"), logger=logger)
    assert len(notes) == 1
    assert logger.status == "failed"
    with receive_reports(Notes()):
        assert fit(Scored(), ReportCallback("val/acc")).global_step == 30  # the next trial in this process


def test_a_metric_that_was_not_logged_is_named_with_those_that_were() -> None:
    with pytest.raises(
        ValueError, match=r"monitor: 'val/f1' is not among the metrics .*; there are train_loss, val/acc$"
    ):
        fit(Scored(), ReportCallback("val/f1"))


def test_training_without_a_sweep_is_bit_identical_with_the_callback() -> None:
    modules = []
    for callbacks in ([], [ReportCallback("val_loss")]):
        torch.manual_seed(0)
        modules.append(Classifier())
        fit(modules[-1], *callbacks)
    for before, after in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        assert torch.equal(before, after)


def test_it_is_made_from_yaml() -> None:
    """lightning-hydra-template instantiates each entry below `callbacks`."""
    text = "report: {_target_: harness.integrations.lightning.ReportCallback, monitor: val/acc}"
    callback = instantiate(OmegaConf.create(text).report)
    assert isinstance(callback, ReportCallback)
    assert callback.monitor == "val/acc"


def test_trainers_of_pytorch_lightning_take_it_too() -> None:
    pl = pytest.importorskip("pytorch_lightning")

    class Module(pl.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.classifier = Classifier()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.classifier.compute(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", self.classifier.compute(batch))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    notes = Notes()
    notes.end = 20, Pruned("why")
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", callbacks=[ReportCallback("val/loss")], **SILENT)
    with receive_reports(notes), pytest.raises(Pruned, match="why"):
        trainer.fit(Module(), make_loader(1, True), make_loader(2, False))
    assert [(step, total) for _, step, total in notes] == [(10, 30), (20, 30)]


TWO_PROCESSES = """
import os, time
from contextlib import nullcontext
from harness.integrations.lightning import ReportCallback
from harness.sweep import Pruned
from harness.sweep.reporting import receive_reports
from tests.integrations.test_lightning_reporting import Notes, Scored, fit

notes = Notes()
notes.end = 5, Pruned("as a study says")
is_worker = "LOCAL_RANK" not in os.environ  # Lightning starts this file again for the other process
try:
    with receive_reports(notes) if is_worker else nullcontext():
        fit(Scored(), ReportCallback("val/acc"), devices=2, strategy="ddp", max_epochs=5)
except Pruned as error:
    print("pruned at", *[step for _, step, _ in notes], flush=True)
    time.sleep(7)  # every 5 s Lightning looks whether another process failed, and kills this one then
    print("alive", flush=True)
"""


@pytest.mark.slow
def test_all_processes_of_a_pruned_trial_end_and_the_first_one_lives(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["pruned at 5", "alive"], done.stderr
    assert done.returncode == 0
