"""Labels and loss against the text."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.preflight import PreflightReport, TrainingSetup, preflight
from harness.preflight.training_setup import IGNORED
from tests.preflight.healthy_trainings import Training, make_model
from tests.preflight.other_trainings import (
    make_masked_setup,
    make_operator_setup,
    make_transformers_setup,
    masked_lm_loss,
)


def checked(subject: TrainingSetup) -> PreflightReport:
    return preflight(subject, ["alignment"])


def levels(subject: TrainingSetup) -> dict[str, str]:
    return {finding.what: finding.level for _, finding in checked(subject)}


def test_random_weights_show_a_shifted_loss_as_well_as_trained_ones() -> None:
    training = Training()
    training.model.load_state_dict(make_model().state_dict())
    training.more = {"is_pretrained": False}
    training.loss_fn = unmoved_loss
    assert levels(training.make_setup())["the loss against the logits"] == "fail"


def unmoved_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Each position predicts itself."""
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)


def test_a_model_that_learned_to_repeat_its_input_is_told_from_one_that_predicts() -> None:
    training = Training()
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-2)
    for batch in training.batches() * 6:
        optimizer.zero_grad()
        unmoved_loss(training.model, batch).backward()
        optimizer.step()
    assert levels(training.make_setup())["what the weights have learned to predict"] == "fail"


def test_labels_moved_on_against_the_rule_that_is_stated_fail() -> None:
    training = Training()
    text = training.make_setup().text
    batches = [batch | {"labels": batch["labels"].roll(-1, 1)} for batch in training.batches()]
    subject = replace(training.make_setup(), batches=batches, text=text)
    assert levels(subject)["labels in the batches"] == "fail"


def test_masked_labels_one_place_off_fail() -> None:
    subject = make_masked_setup()

    def beside(model: nn.Module, batch: dict[str, Tensor]) -> object:
        return masked_lm_loss(model, batch | {"labels": batch["labels"].roll(1, 1)})

    found = levels(replace(subject, loss_fn=beside))
    assert found["the loss against the logits"] == "fail"
    assert found["a toy text in which the token alone says what is meant"] == "fail"


def test_a_loss_with_label_smoothing_is_to_be_looked_at_and_no_fault() -> None:
    training = Training()

    def smoothed(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1].flatten(0, 1)
        labels = batch["labels"][:, 1:].flatten()
        return F.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=0.1)

    training.loss_fn = smoothed
    assert checked(training.make_setup()).get_level("alignment") == "warn"


def test_no_text_is_not_checked_and_it_is_said_what_that_needs() -> None:
    [(_, finding)] = checked(make_operator_setup())
    assert finding.level == "not checked"
    assert "input_ids" in finding.expected


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_what_transformers_takes_is_read_as_it_is(kind: str) -> None:
    assert checked(make_transformers_setup(kind)).get_level("alignment") == "pass"


def test_a_mask_that_hides_every_label_is_no_shift() -> None:
    subject = make_masked_setup()
    hidden = [
        batch | {"input_ids": batch["input_ids"].where(batch["labels"] == IGNORED, 1)} for batch in subject.batches
    ]
    assert TrainingSetup(subject.model, hidden, masked_lm_loss).text.shift == 0
