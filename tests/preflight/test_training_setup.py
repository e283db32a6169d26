import json
import re
from collections import UserDict
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.models import is_causal
from harness.preflight import LabeledTokens, PreflightFailedError, TextFormat, TrainingSetup, preflight
from tests.preflight.healthy_trainings import VOCAB_SIZE, collate, make_documents, make_model
from tests.preflight.other_trainings import make_masked_setup, masked_lm_loss
from tests.preflight.plain_loop import PlainLoop

ROWS = make_documents(8, seed=1)


def zero_loss(model: nn.Module, batch: Any) -> Tensor:
    return torch.zeros(())


class PlainGPT(nn.Module):
    """A model that maps ids to logits, without attention mask and output class."""

    def __init__(self) -> None:
        super().__init__()
        self.gpt = make_model()

    def forward(self, idx: Tensor) -> Tensor:
        return self.gpt(idx).logits


def make_plain_setup(model: nn.Module) -> TrainingSetup:
    """Return a setup whose batches are pairs of ids and next ids, as in nanoGPT."""
    inputs = torch.tensor([row[:10] for row in ROWS])
    text = TextFormat(
        read=lambda batch: LabeledTokens(*batch, torch.ones_like(batch[0], dtype=torch.bool)),
        write=lambda tokens: (tokens.inputs, tokens.labels),
        logits=lambda model, batch: model(batch[0]),
        label_shift=1,
    )

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    return TrainingSetup(model, [(inputs[:, :-1], inputs[:, 1:])], loss_fn, text)


def test_model_with_another_signature_is_checked_through_text_format() -> None:
    setup = make_plain_setup(PlainGPT())
    assert setup.is_causal
    assert not preflight(setup, ["alignment", "attention"]).failed_checks


def test_is_causal_is_required_if_it_cannot_be_detected() -> None:
    class WideGPT(PlainGPT):
        def forward(self, idx: Tensor) -> Tensor:
            if idx.shape[1] < 9:
                raise RuntimeError("too narrow")
            return super().forward(idx)

    text = make_plain_setup(PlainGPT()).text
    assert text is not None
    unknown = torch.full((8, 9), -100)
    batch = (torch.tensor([row[:9] for row in ROWS]), unknown)
    with pytest.raises(ValueError, match=r"is_causal: .*too narrow.*set is_causal=True or is_causal=False"):
        TrainingSetup(WideGPT(), [batch], zero_loss, replace(text, label_shift=0))


@pytest.mark.parametrize("shape", [(8,), (8, 3)], ids=["classes of rows", "another text"])
def test_labels_of_another_shape_are_not_text(shape: tuple[int, ...]) -> None:
    batch = collate(ROWS) | {"labels": torch.zeros(shape, dtype=torch.long)}
    assert TrainingSetup(make_model(), [batch], zero_loss).text is None


def test_token_classes_are_not_text() -> None:
    class Tagger(PlainGPT):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.gpt(input_ids, attention_mask).logits[..., :5]

    batch = collate(ROWS)
    batch["labels"] = batch["input_ids"] % 5
    assert TrainingSetup(Tagger(), [batch], zero_loss).text is None


def test_text_is_not_detected_for_encoder_decoder() -> None:
    model = make_model()
    model.config = SimpleNamespace(is_encoder_decoder=True)
    assert TrainingSetup(model, [collate(ROWS)], zero_loss).text is None


def test_is_causal_uses_the_device_of_the_model() -> None:
    devices: list[torch.device] = []

    class MetaModel(nn.Linear):
        def forward(self, input_ids: Tensor) -> Any:
            devices.append(input_ids.device)
            return SimpleNamespace(logits=torch.zeros(2, 2, 3))

    model = MetaModel(1, 1, device="meta")
    is_causal(model)
    assert devices == [model.weight.device]


class ZeroHead(nn.Module):
    """A model with an additional head that is initialized to 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.lm_head = model, nn.Linear(VOCAB_SIZE, VOCAB_SIZE)
        nn.init.zeros_(self.lm_head.weight)
        nn.init.zeros_(self.lm_head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        return SimpleNamespace(logits=self.lm_head(self.model(input_ids, attention_mask).logits))


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_head_initialized_to_0(kind: str) -> None:
    masked = make_masked_setup()
    model = ZeroHead(make_model() if kind == "causal" else masked.model)
    setup = TrainingSetup(model, [collate(ROWS)] if kind == "causal" else masked.batches, masked_lm_loss)
    assert setup.is_causal is (kind == "causal")
    assert not any(weight.any() for weight in model.lm_head.parameters()), "weights must be restored"
    report = preflight(setup, ["attention"])
    assert report.get_level("attention") == "pass", list(report)


def test_branches_initialized_to_0() -> None:
    setup = make_masked_setup()
    for name, weight in setup.model.named_parameters():
        if "attention" in name and weight.ndim > 1 and name.endswith(("out.weight", "output.weight")):
            nn.init.zeros_(weight)
    setup = TrainingSetup(setup.model, setup.batches, masked_lm_loss)
    assert setup.is_causal is False
    assert preflight(setup, ["attention"]).get_level("attention") == "pass"


def test_unknown_check_is_rejected() -> None:
    with pytest.raises(ValueError, match="checks: labels: must be one of batches, loss_form"):
        preflight(make_masked_setup(), ["labels", "attention"])


def test_error_in_a_check_is_reported_as_failure() -> None:
    def broken_loss(model: nn.Module, batch: Any) -> Tensor:
        raise RuntimeError("no loss today")

    setup = make_masked_setup()
    setup.loss_fn = broken_loss
    report = preflight(setup, ["initial_loss"])
    [(_, finding)] = report
    assert report.failed_checks == ["initial_loss"]
    assert "RuntimeError: no loss today" in finding.observed


def test_padding_does_not_exceed_the_width_of_training_batches() -> None:
    batch = collate(ROWS)
    max_width = batch["input_ids"].shape[1]

    class LimitedGPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gpt = make_model()

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            assert input_ids.shape[1] <= max_width
            return self.gpt(input_ids, attention_mask)

    def loss_fn(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"]).logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    report = preflight(TrainingSetup(LimitedGPT(), [batch], loss_fn), ["attention", "padding"])
    assert [report.get_level(check) for check in report.findings] == ["pass", "pass"], list(report)


def test_error_in_a_given_function_names_file_and_line() -> None:
    def evaluate(batch_size: int) -> float:
        raise KeyError("position_ids")

    setup = make_masked_setup()
    setup.evaluate = evaluate
    [(_, finding), *_] = preflight(setup, ["evaluation"])
    assert finding.level == "fail"
    assert re.search(r"`evaluate` raised KeyError: 'position_ids', in .*test_training_setup.py:\d+", finding.observed)


def test_further_columns_and_the_type_of_a_batch_reach_the_loss() -> None:
    """A loss that reads a column beside ids and labels, from a mapping with a method of its own."""

    class Columns(UserDict[str, Tensor]):
        def move(self) -> "Columns":
            return self

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        batch = batch.move()
        logits = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1]
        labels, weights = batch["labels"][:, 1:], batch["weights"][:, 1:]
        nats = nn.functional.cross_entropy(logits.mT, labels, reduction="none")
        return (nats * weights).sum() / weights.sum()

    batch = collate(ROWS)
    batch["weights"] = (batch["labels"] >= 0) * (1.0 + batch["input_ids"] % 2)
    report = preflight(TrainingSetup(make_model(), [Columns(batch)], loss_fn))
    assert not report.failed_checks, list(report)
    assert not [finding for _, finding in report if finding.title == "the check"]


def test_report_raises_and_converts_to_json() -> None:
    report = preflight(make_masked_setup(), ["attention"])
    report.raise_if_failed()
    assert json.loads(json.dumps(report.to_dict()))["status"] == "pass"
    failing = preflight(replace(make_masked_setup(), is_causal=True), ["attention"])
    with pytest.raises(PreflightFailedError, match=r"attention: later tokens: .* expected at most"):
        failing.raise_if_failed()
    assert failing.to_dict()["failed_checks"] == ["attention"]


def test_pairs_of_inputs_and_next_tokens_are_text_with_their_ignore_index() -> None:
    loop = PlainLoop()
    batches = [loop.get_batch() for _ in range(4)]
    setup = TrainingSetup(loop.model, batches, lambda model, batch: model(*batch)[1])
    assert setup.text is not None
    assert (setup.text.label_shift, setup.text.ignore_index, setup.is_causal) == (1, -1, True)
    assert not preflight(setup, ["batches", "alignment", "attention", "loss_form"]).failed_checks


def test_pairs_of_other_integers_are_not_text() -> None:
    batch = (torch.randint(0, 9, (4, 6)), torch.randint(0, 3, (4, 6)))
    assert TrainingSetup(make_model(), [batch], zero_loss).text is None


def test_model_that_sees_later_tokens_fails_in_a_plain_loop() -> None:
    loop = PlainLoop(is_causal=False)
    setup = TrainingSetup(loop.model, [loop.get_batch()], lambda model, batch: model(*batch)[1])
    assert preflight(setup, ["alignment", "attention"]).failed_checks == ["attention"]
