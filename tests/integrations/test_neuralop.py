"""Trainings with neuraloperator's Trainer: healthy ones pass and are left as they were, faulty ones fail."""

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

pytest.importorskip("neuralop")
from neuralop.data.transforms.data_processors import DefaultDataProcessor
from neuralop.data.transforms.normalizers import UnitGaussianNormalizer
from neuralop.losses import H1Loss, LpLoss
from neuralop.models import FNO
from neuralop.training import Trainer

from harness.integrations.neuralop import preflight
from harness.preflight import CHECKS

EPOCHS, BATCH = 10, 8


class Fields(Dataset[Any]):
    """Smooth random fields and a shifted copy at another scale."""

    def __init__(self, count: int, seed: int) -> None:
        coarse = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
        self.x = nn.functional.interpolate(coarse, 12, mode="bicubic")
        self.y = 2 + 3 * self.x.roll(3, -1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index]}


def make_normalizer(values: Tensor) -> Any:
    normalizer = UnitGaussianNormalizer(dim=[0, 2, 3])
    normalizer.fit(values)
    return normalizer


def make_training(**changes: Any) -> tuple[Any, dict[str, Any]]:
    """Return (trainer, arguments of `train`); a change replaces one of them, or a part of the trainer."""
    torch.manual_seed(0)
    train, test = Fields(48, 1), Fields(20, 2)
    model = FNO(n_modes=(4, 4), in_channels=1, out_channels=1, hidden_channels=8, n_layers=2)
    processor = DefaultDataProcessor(make_normalizer(train.x), make_normalizer(train.y))
    parts = {"model": model, "n_epochs": EPOCHS, "data_processor": processor}
    parts |= {name: changes.pop(name) for name in list(changes) if name in parts}
    optimizer = changes.pop("optimizer", None) or torch.optim.AdamW(parts["model"].parameters(), lr=5e-3)
    make_scheduler = changes.pop("make_scheduler", lambda each: torch.optim.lr_scheduler.StepLR(each, 3, 0.5))
    arguments = {
        "train_loader": DataLoader(train, BATCH, shuffle=True),
        "test_loaders": {"12": DataLoader(test, BATCH)},
        "optimizer": optimizer,
        "scheduler": make_scheduler(optimizer),
        "training_loss": H1Loss(d=2),
        "eval_losses": {"l2": LpLoss(d=2)},
    }
    return Trainer(**parts), arguments | changes


HEALTHY: dict[str, Callable[[], Any]] = {
    "normalized": make_training,
    "as they are": lambda: make_training(data_processor=None, training_loss=None, eval_losses=None),
    "plateau": lambda: make_training(make_scheduler=lambda each: torch.optim.lr_scheduler.ReduceLROnPlateau(each)),
    "plain module": lambda: make_training(model=Plain(), data_processor=None),
}


class Plain(nn.Module):
    """A model of the user, without the method that saves it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, x: Tensor, **others: Any) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_training_passes(name: str) -> None:
    trainer, arguments = HEALTHY[name]()
    report = preflight(trainer, **arguments, quiet=True)
    broken = [each.describe() for _, each in report if each.level == "fail" or each.title == "the check"]
    assert not broken


def make_stray_optimizer() -> Any:
    """The model is made again after its optimizer."""
    return make_training(optimizer=torch.optim.AdamW(Plain().parameters(), lr=1e-3))


def make_step_cosine() -> Any:
    """A cosine for all steps, which the Trainer advances once an epoch."""
    steps = EPOCHS * 48 // BATCH
    return make_training(make_scheduler=lambda each: torch.optim.lr_scheduler.CosineAnnealingLR(each, 20 * steps))


# Written before the first run: (training, first check to fail, what its finding says).
FAULTS: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: make_training(training_loss=LpLoss(d=2, reduction="mean")), "loss_form", "training_loss is a mean"),
    (lambda: make_training(eval_losses={"l2": LpLoss(d=2, reduction="mean")}), "loss_form", "eval_losses['l2']"),
    (make_stray_optimizer, "gradients", "not in the model"),
    (lambda: make_training(test_loaders={"12": DataLoader(Fields(48, 1), BATCH)}), "evaluation", "48 of 48"),
]


@pytest.mark.parametrize(("make", "check", "words"), FAULTS)
def test_fault_fails_with_its_cause_first(make: Callable[[], Any], check: str, words: str) -> None:
    trainer, arguments = make()
    needed = [*takewhile(lambda each: each != check, CHECKS), check]
    report = preflight(trainer, **arguments, checks=needed, quiet=True)
    failures = [(name, finding.describe()) for name, finding in report if finding.level == "fail"]
    assert failures
    assert failures[0][0] == check
    assert words in failures[0][1]


def test_cosine_of_steps_that_is_advanced_by_epochs_is_named() -> None:
    trainer, arguments = make_step_cosine()
    report = preflight(trainer, **arguments, checks=["effective_settings"], quiet=True)
    assert any("no training step advances it" in each.observed for _, each in report if each.level in ("warn", "fail"))


def test_training_after_preflight_is_bit_identical() -> None:
    weights = []
    for checked in (False, True):
        trainer, arguments = make_training()
        attributes = dict(trainer.__dict__)
        if checked:
            assert not preflight(trainer, **arguments, quiet=True).failed_checks
            assert trainer.__dict__ == attributes
        torch.manual_seed(1)
        trainer.n_epochs = 2
        trainer.train(**arguments)
        weights.append([weight.detach() for weight in trainer.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
