"""Inject faults into a healthy training: the check in charge must fail, and be the first to fail."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.core.task import Loss
from harness.data.tokens import IGNORE_INDEX
from harness.preflight import EvalResult, PreflightReport, preflight
from tests.preflight.healthy_trainings import PEAK_LR, STEPS, Training, collate, make_model


@dataclass(frozen=True)
class Fault:
    """A fault that makes `check` fail and with it `consequences`, but no other check."""

    name: str
    check: str
    inject: Callable[[Training], Any]
    consequences: frozenset[str] = frozenset()


def shift_labels_twice(training: Training) -> None:
    """Shift labels in the collator although the loss shifts them, too."""

    def collate_shifted(rows: Any) -> dict[str, torch.Tensor]:
        batch = collate(rows)
        labels = batch["labels"].roll(-1, dims=1)
        labels[:, -1] = IGNORE_INDEX
        return batch | {"labels": labels}

    training.collate = collate_shifted


def invert_attention_mask(training: Training) -> None:
    def invert_mask(model: nn.Module) -> nn.Module:
        forward = model.forward
        model.forward = lambda input_ids, attention_mask=None: forward(
            input_ids, None if attention_mask is None else 1 - attention_mask
        )
        return model

    load = training.load
    invert_mask(training.model)
    training.load = lambda folder: invert_mask(load(folder))


def average_loss_over_padding(training: Training) -> None:
    plain_loss = training.loss_fn
    training.loss_fn = lambda model, batch: Loss(plain_loss(model, batch).sum, batch["labels"][:, 1:].numel())


def add_gradient_noise(training: Training) -> None:
    for parameter in training.model.parameters():
        parameter.register_hook(lambda gradient: gradient + gradient.std() * torch.randn_like(gradient))


def drop_optimizer_group(training: Training) -> None:
    training.set_optimizer([parameter for parameter in training.model.parameters() if parameter.ndim > 1])


def lose_pretrained_weights(training: Training) -> None:
    training.model.load_state_dict(make_model().state_dict())


class LoRALinear(nn.Module):
    """A frozen linear layer with a low-rank adapter; `is_detached` computes the frozen layer outside the graph."""

    def __init__(self, layer: nn.Linear, is_detached: bool) -> None:
        super().__init__()
        self.layer, self.is_detached = layer.requires_grad_(False), is_detached
        self.down = nn.Parameter(torch.randn(4, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_detached):
            frozen = self.layer(x)
        return frozen + x @ self.down.T @ self.up.T


def add_lora(training: Training, is_detached: bool = False) -> None:
    """Add adapters to all linear layers, including the head, and train only these."""
    model = training.model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            model.set_submodule(name, LoRALinear(module, is_detached))
    training.set_optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    training.overrides = {"load": None}


def detach_frozen_base(training: Training) -> None:
    add_lora(training, is_detached=True)


def truncate_warmup_to_0(training: Training) -> None:
    """Use int(0.1) as the number of warm-up steps."""
    training.lr_multiplier = lambda step: 1 - step / STEPS
    training.set_optimizer(training.model.parameters())


def multiply_lr_by_number_of_devices(training: Training) -> None:
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=4 * PEAK_LR, weight_decay=0.01)
    training.scheduler = torch.optim.lr_scheduler.LambdaLR(training.optimizer, training.lr_multiplier)


def advance_scheduler_every_micro_batch(training: Training) -> None:
    step = training.step

    def step_with_four_micro_batches(batch: Any) -> None:
        step(batch)
        for _ in range(3):
            training.scheduler.step()

    training.step = step_with_four_micro_batches


def reinitialize_head_on_loading(training: Training) -> None:
    load = training.load

    def load_without_head(folder: Path) -> nn.Module:
        model = load(folder)
        model.head.weight = nn.Parameter(torch.randn_like(model.head.weight) / 50)
        return model

    training.load = load_without_head


def drop_tail_in_evaluation(training: Training) -> None:
    evaluate, val = training.evaluate, training.val

    def evaluate_without_tail(batch_size: int) -> EvalResult:
        training.val = val[: len(val) // batch_size * batch_size]
        return evaluate(batch_size)

    training.evaluate = evaluate_without_tail


def leak_training_text_into_validation(training: Training) -> None:
    training.val = [*training.val[:-3], *training.train[5:8]]


FAULTS = [
    Fault("labels shifted twice", "alignment", shift_labels_twice, frozenset({"evaluation"})),
    Fault("inverted attention mask", "attention", invert_attention_mask),
    Fault("loss averaged over padding", "loss_form", average_loss_over_padding, frozenset({"evaluation"})),
    Fault("frozen base outside the graph", "gradients", detach_frozen_base),
    Fault("noise added to gradients", "gradients", add_gradient_noise),
    Fault("optimizer lacks a group", "gradients", drop_optimizer_group, frozenset({"train_step"})),
    Fault("pretrained weights not loaded", "initial_loss", lose_pretrained_weights),
    Fault("head reinitialized on loading", "reload", reinitialize_head_on_loading),
    Fault("warm-up truncated to 0", "effective_settings", truncate_warmup_to_0),
    Fault("LR multiplied by the number of devices", "effective_settings", multiply_lr_by_number_of_devices),
    Fault("scheduler advanced every micro-batch", "effective_settings", advance_scheduler_every_micro_batch),
    Fault("evaluation drops the tail", "evaluation", drop_tail_in_evaluation),
    Fault("training text in validation", "evaluation", leak_training_text_into_validation),
]


def get_failures(report: PreflightReport) -> str:
    return "\n".join(f"{check}: {finding}" for check, finding in report if finding.level == "fail")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_found_first_by_the_check_in_charge(fault: Fault) -> None:
    training = Training()
    fault.inject(training)
    report = preflight(training.make_setup())
    assert report.failed_checks[:1] == [fault.check], get_failures(report)
    assert set(report.failed_checks) == {fault.check} | fault.consequences, get_failures(report)


def leave_unchanged(training: Training) -> None:
    pass


def use_autocast(training: Training, dtype: torch.dtype = torch.bfloat16) -> None:
    plain_loss = training.loss_fn

    def loss_fn(model: nn.Module, batch: Any) -> Any:
        with torch.autocast("cpu", dtype):
            return plain_loss(model, batch)

    training.loss_fn = loss_fn


def use_grad_scaler(training: Training, init_scale: float = 2.0**20) -> torch.amp.GradScaler:
    """Train in float16 with a gradient scaler whose initial scale may be too high."""
    use_autocast(training, torch.float16)
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)

    def step(batch: Any) -> None:
        training.model.train()
        training.optimizer.zero_grad()
        scaler.scale(training.compute_loss(batch)).backward()
        scaler.step(training.optimizer)
        scaler.update()
        training.scheduler.step()

    training.step = step
    training.overrides = {"extra_state": [scaler]}
    return scaler


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # the scaler skips updates
@pytest.mark.parametrize("change", [leave_unchanged, add_lora, use_autocast, use_grad_scaler])
def test_healthy_training_does_not_fail(change: Callable[[Training], Any]) -> None:
    training = Training()
    change(training)
    report = preflight(training.make_setup())
    assert not report.failed_checks, get_failures(report)
    lines = [f"{finding.title}: {finding.observed}" for _, finding in report if finding.level == "pass"]
    assert not [line for line in lines if len(line) > 100]
