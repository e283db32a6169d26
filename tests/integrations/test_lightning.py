"""LightningModules: healthy ones pass and are left as they were, faulty ones fail with the cause first."""

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from harness.integrations.lightning import preflight
from harness.preflight import CHECKS

FEATURES, CLASSES, EXAMPLES, BATCH = 12, 4, 160, 16


def make_loader(seed: int, shuffle: bool) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(EXAMPLES, FEATURES, generator=generator)
    centers = torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, (inputs @ centers).argmax(1)), BATCH, shuffle=shuffle)


class Classifier(LightningModule):
    """Automatic optimization, dropout and batch norm, a warm-up that is advanced each step."""

    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        hidden = nn.Linear(FEATURES, 32)
        self.net = nn.Sequential(hidden, nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, CLASSES))

    def compute(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.compute(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.compute(batch), prog_bar=True)

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 5))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class EpochScheduled(Classifier):
    """Two lists, and a schedule by epochs; the loss is in a dict."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.compute(batch), "size": len(batch[0])}

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)]


class Manual(Classifier):
    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__(lr)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.compute(batch))
        self.clip_gradients(optimizer, gradient_clip_val=1.0)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return self.make_optimizer()


class Adversarial(Manual):
    """Two networks with an optimizer each."""

    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__(lr)
        self.critic = nn.Linear(CLASSES, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()  # type: ignore[misc]
        for optimizer, sign, output in ((first, 1, self.net(batch[0])), (second, -1, self.net(batch[0]).detach())):
            optimizer.zero_grad()
            self.manual_backward(sign * self.critic(output).sigmoid().mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (self.net, self.critic)]


class StepSchedulePerEpoch(Classifier):
    """A cosine over all steps, without `interval`: Lightning advances it once an epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        total = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)]


class Detached(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx).detach().requires_grad_()


class PartlyOptimized(Classifier):
    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.net[0].parameters(), lr=self.hparams["lr"])


class EvaluatedInTraining(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net.train()
        super().validation_step(batch, batch_idx)


class NeverCleared(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.compute(batch))
        self.optimizers().step()  # type: ignore[union-attr]


class UnsavedHead(Classifier):
    def on_save_checkpoint(self, checkpoint: Any) -> None:
        checkpoint["state_dict"] = {name: each for name, each in checkpoint["state_dict"].items() if "4." not in name}

    def on_load_checkpoint(self, checkpoint: Any) -> None:
        self.strict_loading = False


def check(module: LightningModule, checks: Any = CHECKS, **options: Any) -> Any:
    torch.manual_seed(0)
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(**{"max_epochs": 5} | options, **silent)
    return preflight(module, make_loader(1, True), make_loader(2, False), trainer=trainer, checks=checks, quiet=True)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Classifier, {"gradient_clip_val": 0.5, "accumulate_grad_batches": 4}),
        (Classifier, {"precision": "bf16-mixed", "max_epochs": -1, "max_steps": 40}),
        (EpochScheduled, {}),
        (Manual, {}),
        (Adversarial, {}),
    ],
    ids=["clipping and accumulation", "bf16", "schedule by epochs", "manual", "adversarial"],
)
def test_healthy_module_passes(module: Callable[[], LightningModule], options: dict[str, Any]) -> None:
    report = check(module(), **options)
    broken = [each.describe() for _, each in report if each.level == "fail" or each.title == "the check"]
    assert not broken


# Written before the first run: (module, first check to fail, what its finding says).
FAULTS: list[tuple[Callable[[], LightningModule], str, str]] = [
    (StepSchedulePerEpoch, "effective_settings", "no training step advances it"),
    (Detached, "gradients", "detach()"),  # foreseen: train_step, which comes later
    (PartlyOptimized, "gradients", "missing"),
    (EvaluatedInTraining, "evaluation", "training mode"),
    (NeverCleared, "train_step", "never cleared"),
    (UnsavedHead, "reload", "net.4"),
]


@pytest.mark.parametrize(("module", "check_name", "words"), FAULTS)
def test_fault_fails_with_its_cause_first(module: Callable[[], LightningModule], check_name: str, words: str) -> None:
    needed = [*takewhile(lambda each: each != check_name, CHECKS), check_name]
    failures = [(name, each.describe()) for name, each in check(module(), needed) if each.level == "fail"]
    assert failures
    assert failures[0][0] == check_name
    assert words in failures[0][1]


class Data(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.setups = 0

    def setup(self, stage: str) -> None:
        self.setups += 1

    def train_dataloader(self) -> Any:
        return make_loader(1, True)

    def val_dataloader(self) -> Any:
        return make_loader(2, False)


def fit_weights(checked: bool) -> list[Tensor]:
    torch.manual_seed(0)
    module, data = Classifier(), Data()
    trainer = Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    if checked:
        attributes = dict(module.__dict__)
        assert not preflight(module, datamodule=data, trainer=trainer, quiet=True).failed_checks
        assert module.__dict__ == attributes
        assert data.setups == 0
    trainer.fit(module, datamodule=data)
    return [weight.detach() for weight in module.state_dict().values()]


def test_training_after_preflight_is_bit_identical() -> None:
    checked, unchecked = fit_weights(True), fit_weights(False)
    assert all(torch.equal(one, other) for one, other in zip(checked, unchecked, strict=True))


def test_error_in_training_step_is_one_failure_with_its_place() -> None:
    class Broken(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise KeyError("x")

    [(_, finding)] = check(Broken())
    assert "KeyError: 'x', in " in finding.observed
    assert "test_lightning.py" in finding.observed


def test_module_that_logs_no_validation_loss_is_warned_about() -> None:
    class Unlogged(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.compute(batch)

    report = check(Unlogged(), ["evaluation"])
    assert [finding.hint for _, finding in report if finding.level == "warn"] == [
        "Call self.log('val_loss', loss) in validation_step"
    ]
