"""`DiagnosisCallback` with Trainers of Lightning."""

import csv
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("lightning")
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from harness.diagnosis import live
from harness.integrations.lightning import DiagnosisCallback
from tests.integrations.test_lightning import CLASSES, Adversarial, Classifier, EpochScheduled, Manual, make_loader

ROOT = Path(__file__).parents[2]
SILENT = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Diverging(Classifier):
    """A loss whose scale makes any LR far too high."""

    def compute(self, batch: Any) -> Tensor:
        return 100 * F.mse_loss(self.net(batch[0]), F.one_hot(batch[1], CLASSES).float())

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def configure_optimizers(self) -> Any:
        return self.make_optimizer()


class LoggedManual(Manual):
    """Manual optimization that returns nothing and logs its loss."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.log("train/loss", self.compute(batch))
        super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/token_loss", self.compute(batch))


def fit(module: Any, callback: DiagnosisCallback | None, n_epochs: int = 2, **more: Any) -> Trainer:
    torch.manual_seed(0)
    callbacks = [] if callback is None else [callback]
    path = more.pop("ckpt_path", None)
    trainer = Trainer(max_epochs=n_epochs, accelerator="cpu", callbacks=callbacks, **{**SILENT, **more})
    trainer.fit(module, make_loader(1, True), make_loader(2, False), ckpt_path=path)
    return trainer


def curve(callback: DiagnosisCallback, name: str) -> list[float]:
    assert callback._loop is not None
    return callback._loop.history[name].values.tolist()


def test_a_far_too_high_lr_is_found_logged_and_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = DiagnosisCallback(stop_on={"divergence"})
    trainer = fit(Diverging(), callback, n_epochs=10, logger=CSVLogger(str(tmp_path), name="", version=""))
    assert trainer.global_step < 30
    out = capsys.readouterr().out
    assert out.count(" · divergence: ") == 1
    assert "in configure_optimizers: lr=0.33" in out
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["diagnosis/divergence"] for row in rows if row.get("diagnosis/divergence")] == ["1.0"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_training_loss_is_the_mean_since_the_last_row(accumulate: int) -> None:
    module, callback = EpochScheduled(), DiagnosisCallback(quiet=True)
    seen: list[float] = []
    original = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        output = original(batch, batch_idx)
        seen.append(output["loss"].item())
        return output

    module.training_step = training_step  # type: ignore[method-assign]
    fit(module, callback, accumulate_grad_batches=accumulate, gradient_clip_val=0.5)
    means = torch.tensor(seen).view(-1, accumulate).mean(1).tolist()
    assert curve(callback, "train/loss") == pytest.approx(means)
    assert len(curve(callback, "val/loss")) == 2
    assert callback._loop is not None
    facts = callback._loop.history.facts
    assert (facts.total_steps, facts.steps_per_epoch, facts.grad_clip) == (20 // accumulate, 10 // accumulate, 0.5)
    assert (facts.optimizer, facts.length, facts.status) == ("AdamW", ("loop.epochs", 2), "completed")
    assert len(curve(callback, "train/grad_norm")) == len(means)


def test_manual_optimization_is_read_from_its_logs_and_counted_in_batches() -> None:
    callback = DiagnosisCallback(quiet=True)
    fit(LoggedManual(), callback)
    assert len(curve(callback, "train/loss")) == 20
    assert len(curve(callback, "val/loss")) == 2
    assert not curve(callback, "train/grad_norm")


def test_a_game_of_two_optimizers_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    callback = DiagnosisCallback()
    fit(Adversarial(), callback, n_epochs=6)
    assert not callback.diagnoses
    assert capsys.readouterr().out == (
        "diagnosis: this run is not diagnosed: several optimizers and no metric train_loss: no single loss says how "
        "well it learns\n"
    )


@pytest.mark.parametrize("kind", [Classifier, Manual])
def test_training_is_bit_identical_with_the_callback(kind: type[Classifier]) -> None:
    modules = []
    for callback in (None, DiagnosisCallback(quiet=True)):
        torch.manual_seed(0)
        modules.append(kind())
        fit(modules[-1], callback)
    for before, after in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        assert torch.equal(before, after)


class Sparse(Classifier):
    """A model with sparse gradients, whose norm torch cannot compute."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Embedding(1, CLASSES, sparse=True)

    def compute(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net(batch[0]) + self.bias(torch.zeros_like(batch[1])), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_gradients_without_a_norm_are_diagnosed_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    callback = DiagnosisCallback()
    fit(Sparse(), callback)
    assert len(curve(callback, "train/loss")) == 20
    assert not curve(callback, "train/grad_norm")
    assert capsys.readouterr().err == ""


class NamedOtherwise(Classifier):
    """Overfits to a validation loss that is made to rise."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("valid/mse_loss", 1 + 0.1 * abs(self.trainer.current_epoch - 2))


def test_the_monitor_is_the_metric_that_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    fit(NamedOtherwise(), DiagnosisCallback(stop_on="overfitting"), n_epochs=12)
    out = capsys.readouterr().out
    assert 'EarlyStopping(monitor="valid/mse_loss", patience=2)' in out
    assert "diagnosis: training stopped at step " in out


def test_a_resumed_run_continues_its_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = DiagnosisCallback()
    trainer = fit(Diverging(), first)
    assert first.diagnoses
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    capsys.readouterr()
    callback = DiagnosisCallback()
    fit(Diverging(), callback, n_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert curve(callback, "train/lr") == [1.0] * 30
    out = capsys.readouterr().out
    assert " · divergence: " not in out
    assert "found: divergence (step" in out


def test_an_error_in_the_diagnosis_never_ends_the_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(live, "diagnose", fail)
    assert fit(Classifier(), DiagnosisCallback(stop_on="divergence")).global_step == 20
    assert capsys.readouterr().err.count("warning: diagnosis is disabled after ZeroDivisionError: planted") == 1


def test_trainers_of_pytorch_lightning_take_it_too() -> None:
    pl = pytest.importorskip("pytorch_lightning")

    class Module(pl.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.classifier = Classifier()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.classifier.compute(batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = DiagnosisCallback(quiet=True)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[callback], **SILENT)
    trainer.fit(Module(), make_loader(1, True))
    assert len(curve(callback, "train/loss")) == 10


@pytest.mark.slow
def test_a_run_of_mlflow_gets_metrics_and_tags(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import MLFlowLogger

    logger = MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    fit(Diverging(), DiagnosisCallback(quiet=True), logger=logger)
    run = logger.experiment.get_run(logger.run_id)
    assert run.data.metrics["diagnosis/divergence"] > 0.9
    assert "step " in run.data.tags["diagnosis.divergence"]


SCRIPT = """
import logging
from harness.integrations.lightning import DiagnosisCallback
from tests.integrations.test_lightning_diagnosis import SILENT, Diverging, Trainer, make_loader
options = SILENT | {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": 20}
trainer = Trainer(callbacks=[DiagnosisCallback(stop_on={"divergence"})], **options)
trainer.fit(Diverging(), make_loader(1, True), make_loader(2, False))
print("rank", trainer.global_rank, "stopped at", trainer.global_step, flush=True)
"""


@pytest.mark.slow
def test_all_processes_stop_together_and_one_prints(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    stops = dict(line.split(" stopped at ") for line in done.stdout.splitlines() if " stopped at " in line)
    assert stops.keys() == {"rank 0", "rank 1"}, done.stderr
    assert len(set(stops.values())) == 1
    assert int(stops["rank 0"]) < 100
    assert done.stdout.count(" · divergence: ") == 1
