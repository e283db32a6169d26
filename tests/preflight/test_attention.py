from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.preflight import Finding, TrainingSetup, preflight
from harness.preflight.training_setup import detect_text_format
from tests.preflight.healthy_trainings import Training
from tests.preflight.other_trainings import make_ltg_bert, make_masked_setup, masked_lm_loss


def check_attention(setup: TrainingSetup) -> dict[str, Finding]:
    return {finding.title: finding for _, finding in preflight(setup, ["attention"])}


def get_failed(setup: TrainingSetup) -> set[str]:
    return {title for title, finding in check_attention(setup).items() if finding.level == "fail"}


def change_attention_mask(model: nn.Module, change: Callable[[Tensor], Tensor | None]) -> nn.Module:
    """Let the model receive a changed attention mask."""
    forward = model.forward
    model.forward = lambda input_ids, attention_mask=None: forward(
        input_ids, None if attention_mask is None else change(attention_mask)
    )
    return model


def test_visible_padding_fails() -> None:
    setup = make_masked_setup()
    assert preflight(setup, ["padding"]).status == "pass"
    change_attention_mask(setup.model, lambda mask: None)
    assert preflight(setup, ["padding"]).failed_checks == ["padding"]


def test_causal_model_that_sees_later_tokens_fails() -> None:
    assert "later tokens" in get_failed(replace(make_masked_setup(), is_causal=True))


def test_missing_causal_mask_fails_although_is_causal_is_not_given() -> None:
    setup = TrainingSetup(make_ltg_bert(), Training().make_batches(), masked_lm_loss)
    assert get_failed(setup) == {"later tokens"}


def test_masked_model_that_sees_one_side_fails() -> None:
    setup = TrainingSetup(Training().model, make_masked_setup().batches, masked_lm_loss, is_causal=False)
    assert "later tokens" in get_failed(setup)


def test_attention_within_documents_passes() -> None:
    setup, end_id = make_masked_setup(), 5

    def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        document = (batch["input_ids"] == end_id).cumsum(1)
        is_visible = (document[:, :, None] == document[:, None, :]) & batch["attention_mask"].bool()[:, None, :]
        return model(batch["input_ids"], is_visible | torch.eye(document.shape[1], dtype=torch.bool)).logits

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(logits(model, batch).flatten(0, 1), batch["labels"].flatten())

    text = detect_text_format(setup.batches[0])
    assert text is not None
    assert not get_failed(replace(setup, text=replace(text, logits=logits), loss_fn=loss))


def test_padding_is_skipped_without_padded_batches() -> None:
    training = Training()
    training.collate = lambda rows: Training().collate([row[:10] for row in rows])
    assert preflight(training.make_setup(), ["padding"]).status == "skip"
