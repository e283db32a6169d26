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


def evaluate_at_size(size: int) -> float:
    return size


def evaluate_split(split: str = "val") -> float:
    return {"val": 1.0}[split]


def evaluate_few(max_batches: int | None = 3, device: str = "cpu") -> float:
    return 1.0 if max_batches == 3 else 2.0


def evaluate_with_keyword(*, split: str = "val", batch_size: int = 4) -> float:
    return batch_size if split == "val" else 0.0


def evaluate_with_default(model: Any = None, bs: int = 4) -> float:
    return bs if model is None else 0.0


@pytest.mark.parametrize(
    ("evaluate", "loss"),
    [
        (evaluate_at_size, 16),
        (lambda n: n, 16),
        (lambda: 1.0, 1),
        (evaluate_split, 1),
        (evaluate_few, 1),
        (evaluate_with_keyword, 16),
        (evaluate_with_default, 16),
    ],
)
def test_evaluation_is_given_its_batch_size_and_nothing_else(evaluate: Any, loss: float) -> None:
    setup = TrainingSetup(nn.Linear(1, 1), [torch.zeros(1)], zero_loss, evaluate=evaluate)
    assert setup.run_evaluation(16).loss == loss
    assert setup.takes_eval_batch_size == (loss == 16)


class NoamOpt:
    """A wrapper of an optimizer, as in the Annotated Transformer."""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batches": torch.utils.data.DataLoader([1, 2])}, "batches: a DataLoader: .*islice"),
        ({"batches": {"x": torch.zeros(1)}}, "batches: a dict of x: must be a list of batches"),
        ({"model": torch.relu}, "model: .*: must be a torch.nn.Module"),
        ({"optimizer": NoamOpt()}, "optimizer: a NoamOpt: .*inside a wrapper"),
        ({"optimizer": {"body": NoamOpt()}}, r"optimizer: a dict of body: .*list\(optimizer.values\(\)\)"),
        ({"scheduler": [NoamOpt()]}, "scheduler: a NoamOpt: .*lrs_at"),
        ({"train_step": torch.zeros(2)}, r"train_step: a tensor of shape \[2\]: must be a function"),
        ({"extra_state": torch.amp.GradScaler("cpu")}, "extra_state: a GradScaler: must be a list"),
        ({"extra_state": [3]}, "extra_state: an int: must have state_dict"),
    ],
)
def test_field_of_another_type_is_named_with_a_remedy(fields: Mapping[str, Any], message: str) -> None:
    healthy = {"model": nn.Linear(1, 1), "batches": [torch.zeros(1)], "loss_fn": zero_loss}
    with pytest.raises(TypeError, match=message):
        TrainingSetup(**healthy | fields)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((torch.zeros(()), {"accuracy": 0}), "a tuple of 2"),
        ({"loss": torch.zeros(())}, "a dict of loss"),
        (torch.zeros(4), "a tensor of shape [4]"),
        (1.0, "a float"),
    ],
)
def test_loss_of_another_type_fails_once_with_what_it_is(result: Any, words: str) -> None:
    setup = TrainingSetup(nn.Linear(1, 1), [torch.zeros(4, 1)], lambda model, batch: result)
    report = preflight(setup)
    [finding] = [finding for _, finding in report if finding.level == "fail"]
    assert finding.observed == f"`loss_fn` returned {words}"
    assert "output.loss" in finding.hint


def test_error_in_backward_is_not_blamed_on_a_changed_batch() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise RuntimeError("no backward")

    setup = TrainingSetup(nn.Linear(1, 1), [torch.ones(4, 1)], lambda model, batch: Broken.apply(model(batch).mean()))
    report = preflight(setup, ["gradients", "overfit"])
    assert report.failed_checks == ["gradients"]
    assert "the loss raised RuntimeError: no backward" in report.findings["gradients"][-1].observed
    assert "see above" in report.findings["overfit"][0].observed


def test_error_on_a_part_of_the_batch_skips_and_says_so() -> None:
    def loss_of_all_rows(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).view(2, 5, -1).square().mean()

    setup = TrainingSetup(nn.Linear(3, 3), [torch.randn(10, 3)], loss_of_all_rows)
    [finding] = preflight(setup, ["loss_form"]).findings["loss_form"][-1:]
    assert finding.level == "skip"
    assert "batches that it cut or changed; the first as given works" in finding.observed


@pytest.mark.parametrize("given", [-1, 0])
def test_ignore_index_of_the_cross_entropy_is_read_without_a_label_out_of_range(given: int) -> None:
    """A label out of range would end the process on CUDA."""
    inputs, seen = torch.tensor([row[:10] for row in ROWS]) % (VOCAB_SIZE - 1) + 1, []
    model = PlainGPT()

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        seen.append(batch[1].min().item())
        loss = nn.CrossEntropyLoss(ignore_index=given) if given else None
        logits, labels = model(batch[0]).flatten(0, 1), batch[1].flatten()
        return loss(logits, labels) if loss else nn.functional.cross_entropy(logits, labels, None, None, given)

    setup = TrainingSetup(model, [(inputs[:, :-1], inputs[:, 1:])], loss_fn)
    assert setup.text is not None
    assert setup.text.ignore_index == given
    assert min(seen) > 0
