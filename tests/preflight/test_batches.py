"""Batches whose targets stand among other columns, and text of which something is restored."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.preflight import PreflightReport, TrainingSetup, preflight
from harness.preflight.targets import find_loss_targets

N_CLASSES, VOCAB, MASK = 4, 30, 30


def check_batches(setup: TrainingSetup) -> PreflightReport:
    return preflight(setup, ["batches"])


def make_rows(is_sorted: bool) -> list[tuple[Tensor, Tensor]]:
    """Return four batches of inputs and their classes, [16]."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(64) // 16 if is_sorted else torch.randint(N_CLASSES, (64,), generator=generator)
    inputs = torch.randn(64, 6, generator=generator) + F.one_hot(classes, 6)
    return list(zip(inputs.split(16), classes.split(16), strict=True))


def class_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def make_classifier(add: Callable[[int, Tensor], tuple[Tensor, ...]], is_sorted: bool, loss_fn: Any) -> TrainingSetup:
    """Return a classifier whose batches hold further columns between or after inputs and classes."""
    torch.manual_seed(0)
    batches = [(x, y, *add(index, y)) for index, (x, y) in enumerate(make_rows(is_sorted))]
    return TrainingSetup(nn.Linear(6, N_CLASSES), batches, loss_fn)


def weighted_loss(model: nn.Module, batch: Any) -> Tensor:
    return (F.cross_entropy(model(batch[0]), batch[1], reduction="none") * batch[2]).mean()


def scaled_loss(model: nn.Module, batch: Any) -> Tensor:
    """Divide the output for each row by its number of frames, which stands between inputs and classes."""
    return F.cross_entropy(model(batch[0] / batch[2][:, None]), batch[1])


def ctc_loss(model: nn.Module, batch: Any) -> Tensor:
    output = model(batch[0]).log_softmax(-1).transpose(0, 1)
    frames = torch.full((len(batch[0]),), batch[0].shape[1])
    return F.ctc_loss(output, batch[1], frames, batch[2])


def make_speech() -> TrainingSetup:
    torch.manual_seed(0)
    batches = []
    for length in (3, 9, 5, 7):
        batches.append((torch.randn(8, 40, 6), torch.randint(1, 9, (8, 10)), torch.full((8,), length)))
    return TrainingSetup(nn.Linear(6, 9), batches, ctc_loss)


def make_autoencoder() -> TrainingSetup:
    torch.manual_seed(0)
    batches = [{"x": x, "y": y} for x, y in make_rows(is_sorted=True)]
    return TrainingSetup(nn.Linear(6, 6), batches, lambda model, batch: F.mse_loss(model(batch["x"]), batch["x"]))


HEALTHY = {
    "domain of the batch": lambda: make_classifier(lambda i, y: (torch.full_like(y, i),), False, class_loss),
    "number of the example": lambda: make_classifier(lambda i, y: (16 * i + torch.arange(16),), False, class_loss),
    "lengths in buckets": lambda: make_classifier(lambda i, y: (torch.full_like(y, i + 1),), False, scaled_loss),
    "lengths of the targets": make_speech,
    "classes that the loss does not use": make_autoencoder,
}
SORTED = {
    "weights of the rows": lambda: make_classifier(lambda i, y: (torch.rand(16) + 0.5,), True, weighted_loss),
    "lengths of the inputs": lambda: make_classifier(lambda i, y: (torch.arange(16) % 3 + 1,), True, scaled_loss),
    "nothing else": lambda: make_classifier(lambda i, y: (), True, class_loss),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_other_columns_are_not_taken_for_classes(name: str) -> None:
    assert not check_batches(HEALTHY[name]()).failed_checks


@pytest.mark.parametrize("name", SORTED)
def test_sorted_classes_fail_whatever_else_is_in_the_batch(name: str) -> None:
    report = check_batches(SORTED[name]())
    assert ["not shuffled" in finding.observed for _, finding in report if finding.level == "fail"] == [True]


def test_targets_change_the_loss_and_not_the_output() -> None:
    assert find_loss_targets(SORTED["weights of the rows"]()) == ["1", "2"]
    assert find_loss_targets(SORTED["lengths of the inputs"]()) == ["1"]
    assert find_loss_targets(make_speech()) == ["1", "2"]


class Tagger(nn.Module):
    """A bidirectional recurrent model from tokens to as many scores as there are ids."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.cells = nn.Embedding(VOCAB + 1, 16), nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, VOCAB + 11)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.cells(self.tokens(ids))[0])


def make_tagging(corrupt: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> TrainingSetup:
    """Return a model that restores a text: `corrupt` makes inputs and labels of tokens and uniform random numbers."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(4):
        text = torch.randint(1, VOCAB, (8, 16), generator=generator)
        inputs, labels = corrupt(text, torch.rand(8, 16, generator=generator))
        batches.append({"input_ids": inputs, "labels": labels})
    return TrainingSetup(
        Tagger(),
        batches,
        lambda model, batch: F.cross_entropy(model(batch["input_ids"]).mT, batch["labels"]),
        is_causal=False,
    )


def mask_by_row(text: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mask a share between 30% and 100% that differs from row to row, as MaskGIT does."""
    is_masked = draws < torch.linspace(0.3, 1.0, len(text))[:, None]
    return text.masked_fill(is_masked, MASK), text.masked_fill(~is_masked, -100)


def mask_by_inverted_comparison(text: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    return text.masked_fill(draws > 0.15, MASK), text.masked_fill(draws <= 0.15, -100)


RESTORED = {
    "random replacement": lambda text, draws: (text.where(draws > 0.2, (text * 7) % VOCAB), text),
    "a tag for each token": lambda text, draws: (text, text % 2 + VOCAB),
    "tags of a binary sequence": lambda text, draws: (text % 2, text % 2 + 2),
    "shares that differ": mask_by_row,
}
NOT_RESTORED = {
    "inverted": mask_by_inverted_comparison,
    "labels on all tokens": lambda text, draws: (text.masked_fill(draws < 0.15, MASK), text),
}


@pytest.mark.parametrize("name", RESTORED)
def test_restoration_and_tagging_are_not_judged_as_masking(name: str) -> None:
    report = check_batches(make_tagging(RESTORED[name]))
    assert not [finding for _, finding in report if finding.level in ("warn", "fail")]


@pytest.mark.parametrize("name", NOT_RESTORED)
def test_wrong_masking_fails_under_any_class_name(name: str) -> None:
    titles = [
        finding.title for _, finding in check_batches(make_tagging(NOT_RESTORED[name])) if finding.level == "fail"
    ]
    assert titles == ["masked tokens"]
