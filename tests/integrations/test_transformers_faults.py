"""Faults in Trainers as their users have them: each fails, and the first failure names the cause."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DataCollatorWithFlattening, Trainer

from harness.integrations.transformers import preflight
from harness.preflight import CHECKS
from tests.integrations.trainers import PAD, collate, load_pretrained, make_gpt2, make_llama, make_rows, make_trainer
from tests.preflight.strangers import pad_rows


def collate_shifted(rows: Any) -> dict[str, Tensor]:
    """Shift labels, although the model shifts them again."""
    batch = collate(rows)
    batch["labels"] = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    return batch


def collate_scored_padding(rows: Any) -> dict[str, Tensor]:
    batch = collate(rows)
    return batch | {"labels": batch["input_ids"].clone()}


def collate_left_without_mask(rows: Any) -> dict[str, Tensor]:
    ids = [row["input_ids"][::-1] for row in rows]
    return {"input_ids": pad_rows(ids, PAD).flip(1), "labels": pad_rows(ids, -100).flip(1)}


def collate_packed_with_mask(rows: Any) -> dict[str, Tensor]:
    """A mask of ones makes the model ignore that positions restart."""
    batch = DataCollatorWithFlattening()(rows)
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


def nats_of(model: Any, inputs: Mapping[str, Tensor], reduction: str) -> tuple[Tensor, Any]:
    outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    labels = inputs["labels"][:, 1:].flatten()
    return F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels, reduction=reduction), outputs


class SummingTrainer(Trainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = nats_of(model, inputs, "sum")
        return (loss, outputs) if return_outputs else loss


class MeanTrainer(Trainer):
    """The loss of each micro-batch is a mean, which the Trainer no longer divides by their number."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = nats_of(model, inputs, "mean")
        return (loss, outputs) if return_outputs else loss


class SoftmaxTrainer(Trainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        shares = outputs.logits[:, :-1].softmax(-1)
        loss = F.cross_entropy(shares.flatten(0, 1), inputs["labels"][:, 1:].flatten())
        return (loss, outputs) if return_outputs else loss


class OldSignatureTrainer(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:  # type: ignore[override]
        return super().compute_loss(model, inputs, return_outputs)


class DetachedTrainer(Trainer):
    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
        self.accelerator.backward(torch.tensor(loss.item(), requires_grad=True))
        return loss.detach()


class ClearingTrainer(Trainer):
    """Each micro-batch clears the gradients of those before it."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        model.zero_grad()
        return super().training_step(model, inputs, num_items_in_batch)


class UndividedTrainer(Trainer):
    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        model.train()
        loss = model(**self._prepare_inputs(inputs)).loss
        self.accelerator.backward(loss)
        return loss.detach()


class SteppingTrainer(Trainer):
    """Updates the weights in training_step, and leaves the second update to the Trainer."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.optimizer.step()
        return loss


class UnusedMethodTrainer(Trainer):
    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer)


class HeadlessTrainer(Trainer):
    """Saves the body of the model only."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.model.base_model.save_pretrained(output_dir)


class DropoutTrainer(Trainer):
    """Evaluates in training mode."""

    def prediction_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        model.train()
        return super().prediction_step(model, *args, **kwargs)


def make_lora(model: nn.Module, **more: Any) -> Any:
    targets = ["q_proj", "v_proj"] if hasattr(model, "model") else ["c_attn"]
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **more))


def make_early_optimizer(folder: Path) -> Trainer:
    model = load_pretrained(make_llama)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return make_trainer(folder, make_lora(model), optimizers=(optimizer, None))


def make_adapters_for_inference(folder: Path) -> Trainer:
    return make_trainer(folder, make_lora(load_pretrained(make_llama), inference_mode=True))


def make_foreign_scheduler(folder: Path) -> Trainer:
    model = load_pretrained(make_gpt2)
    early, optimizer = (torch.optim.AdamW(model.parameters(), lr=1e-3) for _ in range(2))
    return make_trainer(folder, model, optimizers=(optimizer, torch.optim.lr_scheduler.LinearLR(early, 0.1, 1, 20)))


def make_short_cosine(folder: Path) -> Trainer:
    model = load_pretrained(make_gpt2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    return make_trainer(folder, model, optimizers=(optimizer, scheduler), warmup_steps=0)


def make_bfloat16_weights(folder: Path) -> Trainer:
    return make_trainer(folder, load_pretrained(make_llama).to(torch.bfloat16), learning_rate=2e-5)


def make_missing_labels(folder: Path) -> Trainer:
    """Labels under a name that the Trainer does not look for."""
    best = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 20}
    return make_trainer(folder, label_names=["answers"], **best)


def make_unscored(folder: Path) -> Trainer:
    """The template before which labels are hidden is never found."""
    return make_trainer(folder, data_collator=lambda rows: (b := collate(rows)) | {"labels": b["labels"] * 0 - 100})


def trainer_of(kind: type[Trainer] = Trainer, **more: Any) -> Callable[[Path], Trainer]:
    return lambda folder: make_trainer(folder, kind=kind, **more)


# Written before the first run: (how it is made, the check that is first to fail, what its finding says).
FAULTS: dict[str, tuple[Callable[[Path], Trainer], str, str]] = {
    "labels shifted twice": (trainer_of(data_collator=collate_shifted), "alignment", "shifted"),
    "padding scored": (trainer_of(data_collator=collate_scored_padding), "batches", "padding are scored"),
    "nothing scored": (make_unscored, "batches", "nothing is scored"),
    "left padding without a mask": (
        lambda folder: make_trainer(folder, load_pretrained(make_llama), data_collator=collate_left_without_mask),
        "padding",
        "no attention_mask",
    ),
    "packed documents see each other": (
        lambda folder: make_trainer(folder, load_pretrained(make_llama), data_collator=collate_packed_with_mask),
        "independence",
        "document",
    ),
    "loss is a sum": (trainer_of(SummingTrainer), "loss_form", "a sum, not a mean"),
    "softmax before cross-entropy": (trainer_of(SoftmaxTrainer), "loss_form", "softmax"),
    "compute_loss without num_items_in_batch": (trainer_of(OldSignatureTrainer), "training", "num_items_in_batch"),
    "mean under accumulation": (
        trainer_of(MeanTrainer, gradient_accumulation_steps=4),
        "train_step",
        "ignores num_items_in_batch",
    ),
    "own step not divided": (trainer_of(UndividedTrainer, gradient_accumulation_steps=4), "train_step", "x4"),
    "backward on another tensor": (trainer_of(DetachedTrainer), "train_step", "no gradient reaches the optimizer"),
    "micro-batches clear gradients": (
        trainer_of(ClearingTrainer, gradient_accumulation_steps=4),
        "train_step",
        "only the last one counts",
    ),
    "two updates per step": (trainer_of(SteppingTrainer), "train_step", "2 updates"),
    "weights in bfloat16": (make_bfloat16_weights, "train_step", "rounding"),
    "optimizer made before the adapters": (make_early_optimizer, "gradients", "missing"),
    "adapters loaded for inference": (make_adapters_for_inference, "gradients", "none"),
    "method that is never called": (trainer_of(UnusedMethodTrainer), "effective_settings", "never calls it"),
    "scheduler of another optimizer": (make_foreign_scheduler, "effective_settings", "another AdamW"),
    "cosine of a shorter run": (make_short_cosine, "effective_settings", "climbs again"),
    "head not saved": (
        lambda folder: make_trainer(folder, load_pretrained(make_llama), kind=HeadlessTrainer),
        "reload",
        "lm_head",
    ),
    "dropout in evaluation": (trainer_of(DropoutTrainer), "evaluation", "training mode"),
    "no validation loss": (make_missing_labels, "evaluation", "label_names"),
    "validation in training": (
        trainer_of(eval_dataset=make_rows(160, 1)[:48]),
        "evaluation",
        "validation examples in training",
    ),
}


# Of the core's own checks, which have tests of their own.
SLOW = ("padding scored", "nothing scored", "softmax before cross-entropy", "optimizer made before the adapters")
SLOW += ("weights in bfloat16", "validation in training", "cosine of a shorter run", "left padding without a mask")


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.slow if each in SLOW else ()) for each in FAULTS]
)
def test_fault_fails_with_its_cause_first(name: str, tmp_path: Path) -> None:
    make, check, words = FAULTS[name]
    needed = [*itertools.takewhile(lambda each: each != check, CHECKS), check] if check in CHECKS else list(CHECKS)
    report = preflight(make(tmp_path), needed, quiet=True)
    failures = [(check, finding.describe()) for check, finding in report if finding.level == "fail"]
    assert failures, [(check, finding.level, finding.describe()) for check, finding in report]
    assert failures[0][0] == check
    assert words in failures[0][1]
