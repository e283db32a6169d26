"""What may be seen and what not."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.models.ltg_bert import LTGBert
from harness.preflight import Finding, TrainingSetup, preflight
from harness.preflight.training_setup import detect_text_format
from tests.preflight.healthy_trainings import VOCABULARY, Training
from tests.preflight.other_trainings import make_masked_setup, masked_lm_loss


def found(subject: TrainingSetup) -> dict[str, Finding]:
    return {finding.what: finding for _, finding in preflight(subject, ["attention"])}


def failed(subject: TrainingSetup) -> set[str]:
    return {what for what, finding in found(subject).items() if finding.level == "fail"}


def seeing(model: nn.Module, change: Callable[[Tensor], Tensor | None]) -> nn.Module:
    """The model with another attention mask than it is given."""
    forward = model.forward
    model.forward = lambda input_ids, attention_mask=None: forward(
        input_ids, None if attention_mask is None else change(attention_mask)
    )
    return model


def test_padding_that_is_attended_to_fails() -> None:
    subject = make_masked_setup()
    seeing(subject.model, lambda mask: None)
    assert failed(subject) == {"padding and the logits of real tokens", "padding and the mean loss"}


def test_a_causal_model_that_sees_the_future_fails() -> None:
    subject = make_masked_setup()
    lost = replace(subject, is_causal=True)
    assert "what follows a token" in failed(lost)


def test_a_causal_mask_that_is_lost_is_found_though_nobody_said_that_there_was_one() -> None:
    torch.manual_seed(0)
    model = LTGBert(vocab_size=VOCABULARY, width=32, layers=2, heads=2, hidden=64, positions=32)
    assert failed(TrainingSetup(model, Training().batches(), masked_lm_loss)) == {"what is to be predicted"}


def test_a_masked_model_that_sees_one_side_fails() -> None:
    training = Training()
    batches = make_masked_setup().batches
    subject = TrainingSetup(training.model, batches, masked_lm_loss, is_causal=False)
    assert "what follows a token" in failed(subject)


def test_attention_within_documents_is_no_fault() -> None:
    subject, end = make_masked_setup(), 5

    def documents(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        of = (batch["input_ids"] == end).cumsum(1)
        visible = (of[:, :, None] == of[:, None, :]) & batch["attention_mask"].bool()[:, None, :]
        return model(batch["input_ids"], visible | torch.eye(of.shape[1], dtype=torch.bool)).logits

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(documents(model, batch).flatten(0, 1), batch["labels"].flatten())

    text = replace(detect_text_format(subject.batches[0]), logits=documents)
    assert not failed(replace(subject, text=text, loss_fn=loss))


def test_padding_is_not_checked_where_the_batches_have_none() -> None:
    training = Training()
    training.collate = lambda rows: Training().collate([row[:10] for row in rows])
    assert found(training.make_setup())["padding"].level == "not checked"
