from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.preflight import Finding, TrainingSetup, preflight
from harness.preflight.training_setup import detect_text_format
from tests.preflight.healthy_trainings import VOCAB_SIZE, Training
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


class Tokenwise(nn.Module):
    """Scores of each token from `mix` of the embeddings; there is no context without it."""

    def __init__(self, mix: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.mix = nn.Embedding(VOCAB_SIZE, 16), mix
        self.mlp = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, VOCAB_SIZE))

    def forward(self, ids: Tensor) -> Tensor:
        return self.mlp(self.tokens(ids) if self.mix is None else self.mix(self.tokens(ids)))


class Forward(nn.Module):
    """A recurrent layer that reads from left to right, or attention to the same position alone."""

    def __init__(self, is_recurrent: bool) -> None:
        super().__init__()
        self.cells = nn.GRU(16, 16, batch_first=True) if is_recurrent else None

    def forward(self, x: Tensor) -> Tensor:
        if self.cells is not None:
            return self.cells(x)[0]
        is_same = torch.eye(x.shape[1], dtype=torch.bool)
        return x + F.scaled_dot_product_attention(x, x, x, attn_mask=is_same)


def make_tokenwise_setup(mix: nn.Module | None, labels: Callable[[Tensor], Tensor], is_causal: bool) -> TrainingSetup:
    ids = torch.randint(1, VOCAB_SIZE - 1, (8, 12), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": labels(ids)}
    shift = int(is_causal)

    def compute_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"])
        return F.cross_entropy(logits[:, : logits.shape[1] - shift].flatten(0, 1), batch["labels"][:, shift:].flatten())

    return TrainingSetup(Tokenwise(mix), [batch], compute_loss, is_causal=is_causal)


def make_tags(ids: Tensor) -> Tensor:
    return (ids * 7) % VOCAB_SIZE


@pytest.mark.parametrize(
    ("mix", "labels", "is_causal"),
    [(None, Tensor.clone, True), (None, make_tags, False), (Forward(is_recurrent=True), make_tags, False)],
    ids=["language model of one token", "tagger of one token", "tagger from left to right"],
)
def test_models_of_little_context_warn(mix: Any, labels: Any, is_causal: bool) -> None:
    findings = check_attention(make_tokenwise_setup(mix, labels, is_causal)).values()
    assert {finding.level for finding in findings} <= {"pass", "warn"}
    assert any(finding.level == "warn" for finding in findings)


@pytest.mark.parametrize(("is_recurrent", "title"), [(False, "earlier tokens"), (True, "later tokens")])
def test_context_that_is_meant_and_not_seen_fails(is_recurrent: bool, title: str) -> None:
    """Attention with nothing but its own position visible; a masked model that reads one side."""
    if not is_recurrent:
        assert title in get_failed(make_tokenwise_setup(Forward(False), Tensor.clone, True))
        return
    setup = make_masked_setup()
    model = Tokenwise(Forward(True))
    assert get_failed(TrainingSetup(model, setup.batches, tokenwise_masked_loss, is_causal=False)) == {title}


def tokenwise_masked_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())


LATER = slice(1, None)


class Translator(nn.Module):
    """A decoder over what a recurrent encoder makes of the source."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.head = nn.Embedding(VOCAB_SIZE, 16), nn.Linear(16, VOCAB_SIZE)
        self.encoder, self.decoder = nn.GRU(16, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.decoder(self.tokens(target), self.encoder(self.tokens(source))[1])[0])


@pytest.mark.parametrize(
    ("read", "score", "is_faulty"),
    [
        (slice(1, None), slice(1, None), True),
        (slice(None), slice(None), True),
        (slice(None, -1), slice(1, None), False),
    ],
    ids=["scored tokens", "whole target", "all but the last"],
)
@pytest.mark.parametrize("is_mapping", [False, True])
def test_decoder_whose_input_contains_its_labels_fails(
    read: slice, score: slice, is_faulty: bool, is_mapping: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randint(1, VOCAB_SIZE, (8, width), generator=generator) for width in (9, 12))
    keys: Any = ("source", "target") if is_mapping else (0, 1)
    batch: Any = {"source": source, "target": target} if is_mapping else (source, target)

    def compute_loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[keys[0]], batch[keys[1]][:, read]).mT, batch[keys[1]][:, score])

    assert get_failed(TrainingSetup(Translator(), [batch], compute_loss)) == ({"labels"} if is_faulty else set())


def test_model_that_restores_its_own_input_sees_it_by_design() -> None:
    ids = torch.randint(1, VOCAB_SIZE, (8, 12), generator=torch.Generator().manual_seed(0))
    batch = {"ids": ids, "mask": torch.ones_like(ids)}
    setup = TrainingSetup(
        Tokenwise(), [batch], lambda model, batch: F.cross_entropy(model(batch["ids"]).mT, batch["ids"])
    )
    assert not get_failed(setup)
