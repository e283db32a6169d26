"""What is found out of a subject that is given as little as a stranger gives."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.models import is_causal
from harness.preflight import LabeledTokens, TextFormat, TrainingSetup, preflight
from tests.preflight.healthy_trainings import VOCABULARY, collate, make_documents, make_model
from tests.preflight.other_trainings import make_masked_setup, masked_lm_loss

ROWS = make_documents(8, seed=1)


class Bare(nn.Module):
    """Takes ids and returns logits, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.gpt = make_model()

    def forward(self, idx: Tensor) -> Tensor:
        return self.gpt(idx).logits


def nano(model: nn.Module) -> TrainingSetup:
    """Batches are pairs of ids and the next ones."""
    inputs = torch.tensor([row[:10] for row in ROWS])
    text = TextFormat(
        lambda batch: LabeledTokens(*batch, torch.ones_like(batch[0], dtype=torch.bool)),
        lambda tokens: (tokens.inputs, tokens.labels),
        lambda model, batch: model(batch[0]),
        shift=1,
    )
    return TrainingSetup(model, [(inputs[:, :-1], inputs[:, 1:])], nano_loss, text)


def nano_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def test_a_model_of_another_signature_is_looked_at_through_its_text() -> None:
    subject = nano(Bare())
    assert subject.is_causal
    assert not preflight(subject, ["alignment", "attention"]).failed_checks


def test_a_model_that_takes_no_two_tokens_asks_for_is_causal() -> None:
    class Wide(Bare):
        def forward(self, idx: Tensor) -> Tensor:
            if idx.shape[1] < 9:
                raise RuntimeError("too narrow")
            return super().forward(idx)

    with pytest.raises(ValueError, match=r"is_causal: .*too narrow.*say is_causal=True or is_causal=False"):
        nano(Wide())


@pytest.mark.parametrize("shape", [(8,), (8, 3)], ids=["classes of rows", "another text"])
def test_labels_of_another_shape_are_no_text(shape: tuple[int, ...]) -> None:
    batch = collate(ROWS) | {"labels": torch.zeros(shape, dtype=torch.long)}
    assert TrainingSetup(make_model(), [batch], lambda model, batch: torch.zeros(())).text is None


def test_classes_of_tokens_are_no_text() -> None:
    class Tagger(Bare):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.gpt(input_ids, attention_mask).logits[..., :5]

    batch = collate(ROWS)
    batch["labels"] = batch["input_ids"] % 5
    assert TrainingSetup(Tagger(), [batch], lambda model, batch: torch.zeros(())).text is None


def test_an_encoder_with_a_decoder_reads_no_text_of_its_own() -> None:
    model = make_model()
    model.config = SimpleNamespace(is_encoder_decoder=True)
    assert TrainingSetup(model, [collate(ROWS)], lambda model, batch: torch.zeros(())).text is None


def test_ids_are_made_on_the_models_device() -> None:
    seen: list[torch.device] = []

    class Elsewhere(nn.Linear):
        def forward(self, input_ids: Tensor) -> Any:
            seen.append(input_ids.device)
            return SimpleNamespace(logits=torch.zeros(2, 2, 3))

    model = Elsewhere(1, 1, device="meta")
    is_causal(model)
    assert seen == [model.weight.device]


def test_a_masked_model_whose_head_begins_at_0_is_not_taken_for_a_causal_one() -> None:
    model = zero_headed(make_masked_setup().model)
    subject = TrainingSetup(model, make_masked_setup().batches, masked_lm_loss)
    assert subject.is_causal is False
    assert not any(weight.any() for weight in model.lm_head.parameters()), "the weights are as they were"


def zero_headed(model: nn.Module) -> nn.Module:
    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lm_head = model, nn.Linear(VOCABULARY, VOCABULARY)
            nn.init.zeros_(self.lm_head.weight)
            nn.init.zeros_(self.lm_head.bias)

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            return SimpleNamespace(logits=self.lm_head(self.model(input_ids, attention_mask).logits))

    return Zero()


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_head_that_begins_at_0_fails_no_mask(kind: str) -> None:
    given: tuple[nn.Module, list[Mapping[str, Tensor]]]
    given = (
        (make_model(), [collate(ROWS)])
        if kind == "causal"
        else (make_masked_setup().model, make_masked_setup().batches)
    )
    subject = TrainingSetup(zero_headed(given[0]), given[1], masked_lm_loss)
    report = preflight(subject, ["attention"])
    assert report.get_level("attention") == "pass", [finding for _, finding in report]


def test_branches_that_begin_at_0_are_seen_through() -> None:
    model = make_masked_setup().model
    for name, weight in model.named_parameters():
        if "attention" in name and weight.ndim > 1 and name.endswith(("out.weight", "output.weight")):
            nn.init.zeros_(weight)
    subject = TrainingSetup(model, make_masked_setup().batches, masked_lm_loss)
    assert subject.is_causal is False
    assert preflight(subject, ["attention"]).get_level("attention") == "pass"


def test_a_check_that_does_not_exist_is_refused_and_not_passed_over() -> None:
    with pytest.raises(ValueError, match="checks: labels is none of alignment, masks"):
        preflight(make_masked_setup(), ["labels", "attention"])


def test_padding_is_added_within_the_width_that_the_model_takes_in_training() -> None:
    """A model that sets a limit nobody can ask it for."""
    batch = collate(ROWS)
    widest = batch["input_ids"].shape[1]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gpt = make_model()

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            assert input_ids.shape[1] <= widest
            return self.gpt(input_ids, attention_mask)

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"]).logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    report = preflight(TrainingSetup(Block(), [batch], loss), ["attention"])
    assert not report.failed_checks, list(report)
    assert any(finding.what.startswith("padding and") for _, finding in report)
