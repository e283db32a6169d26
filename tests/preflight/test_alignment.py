import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.tokens import IGNORE_INDEX
from harness.preflight import PreflightReport, TrainingSetup, preflight
from tests.preflight.healthy_trainings import Training, collate, make_model
from tests.preflight.other_trainings import (
    make_masked_setup,
    make_operator_setup,
    make_transformers_setup,
    masked_lm_loss,
)


def check_alignment(setup: TrainingSetup) -> PreflightReport:
    return preflight(setup, ["alignment"])


def get_levels(setup: TrainingSetup) -> dict[str, str]:
    return {finding.title: finding.level for _, finding in check_alignment(setup)}


def unshifted_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Loss in which each position predicts its own token."""
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORE_INDEX)


def test_wrong_shift_fails_with_random_weights() -> None:
    training = Training()
    training.model.load_state_dict(make_model().state_dict())
    training.overrides = {"is_pretrained": False}
    training.loss_fn = unshifted_loss
    assert get_levels(training.make_setup())["token that the loss rewards"] == "fail"


@pytest.mark.parametrize(("shift", "level"), [(1, "pass"), (2, "fail"), (0, "fail")])
def test_loss_that_uses_the_logits_in_pieces_is_compared_by_value(shift: int, level: str) -> None:
    def logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return model(batch["input_ids"], batch["attention_mask"]).logits

    def loss_in_pieces(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        rows = [model(ids[None], mask[None]).logits[0] for ids, mask in pairs]
        width = batch["labels"].shape[1]
        scored = torch.stack(rows)[:, : width - shift].flatten(0, 1)
        return F.cross_entropy(scored, batch["labels"][:, shift:].flatten(), ignore_index=IGNORE_INDEX)

    training = Training()
    text = training.make_setup().text
    assert text is not None
    training.loss_fn, training.overrides = loss_in_pieces, {"text": replace(text, logits=logits)}
    assert get_levels(training.make_setup())["token that the loss rewards"] == level


def test_pretrained_model_that_repeats_its_input_fails() -> None:
    training = Training()
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-2)
    for batch in training.make_batches() * 6:
        optimizer.zero_grad()
        unshifted_loss(training.model, batch).backward()
        optimizer.step()
    assert get_levels(training.make_setup())["token that the weights predict"] == "fail"


def test_labels_that_contradict_label_shift_fail() -> None:
    training = Training()
    text = training.make_setup().text
    batches = [batch | {"labels": batch["labels"].roll(-1, 1)} for batch in training.make_batches()]
    setup = replace(training.make_setup(), batches=batches, text=text)
    assert get_levels(setup)["labels in the batches"] == "fail"


def test_shifted_labels_of_masked_model_fail() -> None:
    def shifted_loss(model: nn.Module, batch: dict[str, Tensor]) -> object:
        return masked_lm_loss(model, batch | {"labels": batch["labels"].roll(1, 1)})

    levels = get_levels(replace(make_masked_setup(), loss_fn=shifted_loss))
    assert levels["token that the loss rewards"] == "fail"


def test_label_smoothing_passes() -> None:
    def smoothed_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1].flatten(0, 1)
        labels = batch["labels"][:, 1:].flatten()
        return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, label_smoothing=0.1)

    training = Training()
    training.loss_fn = smoothed_loss
    assert check_alignment(training.make_setup()).get_level("alignment") == "pass"


def test_setup_without_text_is_skipped_with_reason() -> None:
    [(_, finding)] = check_alignment(make_operator_setup())
    assert finding.level == "skip"
    assert "input_ids" in finding.observed


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_transformers_models_pass(kind: str) -> None:
    assert check_alignment(make_transformers_setup(kind)).get_level("alignment") == "pass"


def test_fully_masked_targets_have_no_shift() -> None:
    setup = make_masked_setup()
    batches = [
        batch | {"input_ids": batch["input_ids"].where(batch["labels"] == IGNORE_INDEX, 1)} for batch in setup.batches
    ]
    text = TrainingSetup(setup.model, batches, masked_lm_loss).text
    assert text is not None
    assert text.label_shift == 0


def make_loss_of(order: str) -> Callable[[nn.Module, Mapping[str, Tensor]], Tensor]:
    """Return a loss whose logits or labels are brought into another order."""

    def compute_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        logits, labels = model(batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
        rows, width, vocab = logits.shape
        if order == "view":
            return F.cross_entropy(logits.reshape(rows, vocab, width), labels)
        if order == "previous token":
            return F.cross_entropy(logits[:, 1:].mT, batch["labels"][:, : width - 1])
        if order == "three behind":
            return F.cross_entropy(logits[:, : width - 3].mT, labels[:, 3:])
        if order == "time first":
            return F.cross_entropy(logits.transpose(0, 1).flatten(0, 1), labels.flatten())
        if order == "teacher":
            return F.cross_entropy(logits.mT, logits.detach().roll(7, -1).argmax(-1))
        if order == "soft":
            targets = 0.6 * F.one_hot(labels, vocab) + 0.4 * F.one_hot(labels.roll(1, 0), vocab)
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1).float())
        return F.cross_entropy(logits.mT, labels, label_smoothing=0.2)

    return compute_loss


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ("view", "another order"),
        ("previous token", "100% are the previous token"),
        ("three behind", "the token 4 ahead"),
        ("time first", "another order"),
        ("teacher", ""),
        ("soft", ""),
        ("smoothed", ""),
    ],
)
def test_order_of_logits_and_labels(order: str, words: str) -> None:
    """A teacher's hard labels, mixed labels and smoothed ones are not in another order."""
    rows = [row[:10] for row in Training().train[:8]]
    setup = TrainingSetup(make_model(), [collate(rows)], make_loss_of(order))
    failures = [finding.observed for _, finding in check_alignment(setup) if finding.level == "fail"]
    assert bool(failures) == bool(words)
    assert not words or re.search(words, failures[0])
