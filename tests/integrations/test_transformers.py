"""Healthy Trainers pass, and are left as they were."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithFlattening,
    Trainer,
    TrainerCallback,
)

from harness.core.seeding import get_rng_state
from harness.integrations.transformers import PreflightCallback, preflight
from harness.preflight import PreflightFailedError
from tests.integrations.test_transformers_faults import collate_shifted, make_lora
from tests.integrations.trainers import collate, load_pretrained, make_gpt2, make_llama, make_rows, make_trainer
from tests.preflight.strangers import VOCAB


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(make_rows(160, 1))


def cut_rows(count: int, seed: int, width: int = 16) -> list[dict[str, list[int]]]:
    """Return rows of one width from a text without padding."""
    tokens = [token for row in make_rows(count, seed) for token in row["input_ids"]]
    return [{"input_ids": tokens[start : start + width]} for start in range(0, len(tokens) - width, width)]


def make_everything(folder: Path) -> Trainer:
    """Warm-up, accumulation, padding, bf16 and LoRA together, with checkpointed activations."""
    more = {"gradient_accumulation_steps": 4, "bf16": True, "learning_rate": 1e-2, "activation_checkpointing": True}
    return make_trainer(folder, make_lora(load_pretrained(make_llama), lora_dropout=0.1), **more)


def make_packed_lora(folder: Path) -> Trainer:
    more = {"gradient_accumulation_steps": 2, "bf16": True, "learning_rate": 1e-2}
    model = make_lora(load_pretrained(make_llama))
    return make_trainer(folder, model, data_collator=DataCollatorWithFlattening(), **more)


def use_tokens(folder: Path) -> Trainer:
    rows = {"train_dataset": datasets.Dataset.from_list(make_rows(160, 1)), "eval_dataset": {"own": make_rows(48, 2)}}
    return make_trainer(folder, train_sampling_strategy="group_by_length", **rows)


class AuxiliaryTrainer(Trainer):
    """Adds a term to the loss in `training_step` alone."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        model.train()
        outputs = model(**self._prepare_inputs(inputs))
        loss = outputs.loss + 0.02 * outputs.logits.logsumexp(-1).square().mean()
        self.accelerator.backward(loss / self.current_gradient_accumulation_steps)
        return loss.detach()


def trainer_of(model: Callable[[], Any] = lambda: None, **more: Any) -> Callable[[Path], Trainer]:
    return lambda folder: make_trainer(folder, model(), **more)


HEALTHY: dict[str, Callable[[Path], Trainer]] = {
    "warm-up and padding": trainer_of(),
    "accumulation": trainer_of(gradient_accumulation_steps=4),
    "more micro-batches than rows": trainer_of(gradient_accumulation_steps=3, per_device_train_batch_size=2),
    "bf16": trainer_of(bf16=True),
    "LoRA": trainer_of(lambda: make_lora(load_pretrained(make_gpt2)), learning_rate=1e-2),
    "all together": make_everything,
    "packing": trainer_of(lambda: load_pretrained(make_llama), data_collator=DataCollatorWithFlattening()),
    "packing, LoRA, accumulation, bf16": make_packed_lora,
    "random weights, no padding": trainer_of(make_gpt2, train_dataset=cut_rows(160, 1), eval_dataset=cut_rows(48, 2)),
    "label smoothing under accumulation": trainer_of(label_smoothing_factor=0.1, gradient_accumulation_steps=2),
    "stream": trainer_of(train_dataset=Stream(), dataloader_drop_last=True),
    "three examples, no validation": trainer_of(train_dataset=make_rows(3, 1), eval_dataset=None, eval_strategy="no"),
    "epochs, grouped, several validation sets": use_tokens,
    "another loss in the step": trainer_of(kind=AuxiliaryTrainer),
    "plateau": trainer_of(lr_scheduler_type="reduce_lr_on_plateau", warmup_steps=0, metric_for_best_model="loss"),
}
ORDINARY = ("all together", "packing, LoRA, accumulation, bf16")


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in ORDINARY else pytest.mark.slow) for each in HEALTHY]
)
def test_healthy_trainer_passes(name: str, tmp_path: Path) -> None:
    report = preflight(HEALTHY[name](tmp_path), quiet=True)
    broken = [each.describe() for _, each in report if each.level == "fail" or each.title == "the check"]
    assert not broken


def test_model_that_ignores_the_items_of_a_step_is_named_and_the_hint_mends_it(tmp_path: Path) -> None:
    """A Trainer takes the loss of any model whose `forward` has **kwargs as divided by the items of the whole step."""
    config = BertConfig(**{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": VOCAB})
    torch.manual_seed(0)
    rows = [row | {"label": row["input_ids"][3] % 2} for row in make_rows(64, 1)]
    more = {"train_dataset": rows, "eval_dataset": None, "eval_strategy": "no", "gradient_accumulation_steps": 2}
    trainer = make_trainer(tmp_path, BertForSequenceClassification(config), data_collator=collate_classes, **more)
    [first, *_] = [each for _, each in preflight(trainer, ["train_step"], quiet=True) if each.level == "fail"]
    assert "BertForSequenceClassification ignores num_items_in_batch" in first.observed
    assert "2 times too large" in first.observed
    trainer.loss_is_scaled_for_ga = False
    assert not preflight(trainer, ["train_step"], quiet=True).failed_checks


def collate_classes(rows: Any) -> dict[str, torch.Tensor]:
    batch = collate(rows)
    return batch | {"labels": torch.tensor([row["label"] for row in rows])}


def test_mean_of_means_in_evaluation_is_a_warning(tmp_path: Path) -> None:
    report = preflight(make_trainer(tmp_path), ["evaluation"], quiet=True)
    [warning] = [finding for _, finding in report if finding.level == "warn"]
    assert "a mean of the means of batches" in warning.observed


class Witness(TrainerCallback):
    """Counts the events that reach a user's callback."""

    def __init__(self) -> None:
        self.events = 0

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.events += 1

    on_log = on_step_end = on_step_begin = on_prediction_step = on_save = on_evaluate


class CountingTrainer(Trainer):
    """Keeps numbers of its own, as TRL's trainers do."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__.setdefault("seen", {"train": []})["train"].append(1)
        return super().compute_loss(*args, **kwargs)


def train_losses(trainer: Trainer) -> tuple[list[float], float]:
    torch.manual_seed(7)
    trainer.train()
    entries = [entry.get("loss", entry.get("eval_loss")) for entry in trainer.state.log_history]
    assert trainer.model is not None
    return entries, sum(weight.sum().item() for weight in trainer.model.parameters())


def test_training_after_preflight_is_bit_identical_and_nothing_is_left_behind(tmp_path: Path) -> None:
    def make(name: str) -> tuple[Trainer, Witness]:
        torch.manual_seed(5)
        witness = Witness()
        more = {"max_steps": 6, "gradient_accumulation_steps": 2, "bf16": True, "eval_steps": 3}
        model = make_lora(load_pretrained(make_llama), lora_dropout=0.1)
        trainer = make_trainer(tmp_path / name, model, CountingTrainer, callbacks=[witness], **more)
        return trainer, witness

    trainer, witness = make("checked")
    trainer.__dict__["seen"] = {"train": []}
    attributes, generators = dict(trainer.__dict__), get_rng_state()
    state, arguments = trainer.state.__dict__.copy(), trainer.args.__dict__.copy()
    assert preflight(trainer, quiet=True).status != "fail"
    assert trainer.__dict__.keys() == attributes.keys()
    assert all(trainer.__dict__[name] is value for name, value in attributes.items())
    assert trainer.__dict__["seen"] == {"train": []}
    assert trainer.optimizer is None
    assert (trainer.state.__dict__, trainer.args.__dict__) == (state, arguments)
    assert all(
        torch.equal(one, other) for one, other in zip(*map(flatten_state, (generators, get_rng_state())), strict=True)
    )
    assert not witness.events
    assert not list((tmp_path / "checked").iterdir())

    other, _ = make("called back")
    other.add_callback(PreflightCallback(["train_step", "evaluation"], quiet=True))
    unchecked, _ = make("unchecked")
    expected = train_losses(unchecked)
    assert train_losses(trainer) == expected
    assert train_losses(other) == expected


def flatten_state(state: dict[str, Any]) -> list[torch.Tensor]:
    numbers = [state["python"][1], state["numpy"][1]]
    return [state["torch"], *(torch.as_tensor(np.asarray(each, dtype=np.int64)) for each in numbers)]


def test_given_optimizer_and_scheduler_are_left_as_they_were(tmp_path: Path) -> None:
    model = load_pretrained(make_gpt2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = make_trainer(tmp_path, model, optimizers=(optimizer, None), learning_rate=5e-5)
    group, names = optimizer.param_groups[0], set(optimizer.param_groups[0])
    report = preflight(trainer, quiet=True)
    assert not report.failed_checks, list(report)
    assert optimizer.param_groups[0] is group
    assert set(group) == names
    assert (group["lr"], len(optimizer.state)) == (1e-3, 0)


def test_callback_ends_a_faulty_training_before_its_first_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, data_collator=collate_shifted)
    assert trainer.model is not None
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.add_callback(PreflightCallback(["alignment"], quiet=True))
    with pytest.raises(PreflightFailedError, match=r"alignment: .*shifted twice"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())


def test_findings_are_printed_as_they_come_with_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = preflight(make_trainer(tmp_path), ["batches", "alignment"])
    first, *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"preflight: 2 checks, about \d+ s", first)
    assert last.startswith("preflight: 2 passed, in ")
    assert json.loads(json.dumps(report.to_dict()))["status"] == "pass"


def test_error_in_the_collator_is_one_failure_with_its_place(tmp_path: Path) -> None:
    def collate_wrongly(rows: Any) -> Any:
        raise KeyError("labels")

    report = preflight(make_trainer(tmp_path, data_collator=collate_wrongly), quiet=True)
    [(_, finding)] = report
    assert re.search(
        r"the training data loader: raised KeyError: 'labels', in .*test_transformers.py:\d+", finding.describe()
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_model_parallel": True}, "spread over several"),
        ({"is_fsdp_enabled": True}, "FSDP"),
        ({"train_dataset": None}, "train_dataset"),
    ],
)
def test_unsupported_trainer_is_skipped_in_one_line(
    change: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(tmp_path)
    trainer.__dict__ |= change
    report = preflight(trainer)
    assert report.status == "skip"
    report.raise_if_failed()
    assert words in " ".join(capsys.readouterr().out.split())


def test_failing_metrics_and_arguments_without_effect_are_warnings(tmp_path: Path) -> None:
    def compute_metrics(prediction: Any) -> dict[str, float]:
        return {"accuracy": prediction.no_such_field}

    model = load_pretrained(make_gpt2)
    given = (torch.optim.AdamW(model.parameters(), lr=1e-3), None)
    trainer = make_trainer(tmp_path, model, optimizers=given, compute_metrics=compute_metrics)
    random.seed(0)
    report = preflight(trainer, ["effective_settings", "evaluation"], quiet=True)
    warnings = [finding.describe() for _, finding in report if finding.level == "warn"]
    assert any("learning_rate=0.003 without effect" in warning for warning in warnings)
    assert any(
        re.search(r"compute_metrics: raised AttributeError.*test_transformers.py:\d+", each) for each in warnings
    )
    assert not report.failed_checks
