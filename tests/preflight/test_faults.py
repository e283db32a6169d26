"""Each fault, put into a healthy training, is found by the check that owns it, and named first."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.core.task import Loss
from harness.preflight import EvalResult, PreflightReport, TrainingSetup, preflight
from harness.preflight.training_setup import IGNORED
from tests.preflight.healthy_trainings import PEAK, STEPS, Training, collate, make_model


@dataclass(frozen=True)
class Fault:
    """What `inject` does to a training, `owner` finds; `consequences` fail with it, and nothing else does."""

    name: str
    owner: str
    inject: Callable[[Training], Any]
    consequences: frozenset[str] = frozenset()


def labels_shifted_twice(training: Training) -> None:
    """They are moved on already, and the loss moves them on again."""

    def moved_on(rows: Any) -> dict[str, torch.Tensor]:
        batch = collate(rows)
        labels = batch["labels"].roll(-1, dims=1)
        labels[:, -1] = IGNORED
        return batch | {"labels": labels}

    training.collate = moved_on


def attention_mask_inverted(training: Training) -> None:
    def inverted(model: nn.Module) -> nn.Module:
        forward = model.forward
        model.forward = lambda input_ids, attention_mask=None: forward(
            input_ids, None if attention_mask is None else 1 - attention_mask
        )
        return model

    load = training.load
    inverted(training.model)
    training.load = lambda folder: inverted(load(folder))


def loss_averaged_over_padding(training: Training) -> None:
    plain = training.loss_fn
    training.loss_fn = lambda model, batch: Loss(plain(model, batch).sum, batch["labels"][:, 1:].numel())


def noise_added_to_gradients(training: Training) -> None:
    for parameter in training.model.parameters():
        parameter.register_hook(lambda gradient: gradient + gradient.std() * torch.randn_like(gradient))


def optimizer_missing_a_group(training: Training) -> None:
    training.set_optimizer([parameter for parameter in training.model.parameters() if parameter.ndim > 1])


def weights_never_arrived(training: Training) -> None:
    training.model.load_state_dict(make_model().state_dict())


class LoRALinear(nn.Module):
    """A frozen layer with a low-rank change beside it; `is_cut` computes the frozen part outside the graph."""

    def __init__(self, layer: nn.Linear, is_cut: bool) -> None:
        super().__init__()
        self.layer, self.is_cut = layer.requires_grad_(False), is_cut
        self.down = nn.Parameter(torch.randn(4, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_cut):
            frozen = self.layer(x)
        return frozen + x @ self.down.T @ self.up.T


def add_adapters(training: Training, is_cut: bool = False) -> None:
    """Adapters in every linear layer, the head too, are all that is trained."""
    model = training.model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            model.set_submodule(name, LoRALinear(module, is_cut))
    training.set_optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    training.load = None


def frozen_base_outside_the_graph(training: Training) -> None:
    add_adapters(training, is_cut=True)


def warmup_truncated_to_0(training: Training) -> None:
    """int(0.1) of the steps."""
    training.multiplier = lambda step: 1 - step / STEPS
    training.set_optimizer(training.model.parameters())


def lr_multiplied_by_the_number_of_devices(training: Training) -> None:
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=4 * PEAK, weight_decay=0.01)
    training.schedule = torch.optim.lr_scheduler.LambdaLR(training.optimizer, training.multiplier)


def scheduler_stepped_every_micro_batch(training: Training) -> None:
    step = training.step

    def with_four_micro_batches(batch: Any) -> None:
        step(batch)
        for _ in range(3):
            training.schedule.step()

    training.step = with_four_micro_batches


def head_made_anew_on_loading(training: Training) -> None:
    load = training.load

    def without_head(folder: Path) -> nn.Module:
        model = load(folder)
        model.head.weight = nn.Parameter(torch.randn_like(model.head.weight) / 50)
        return model

    training.load = without_head


def evaluation_that_drops_the_tail(training: Training) -> None:
    whole, val = training.evaluate, training.val

    def without_tail(size: int) -> EvalResult:
        training.val = val[: len(val) // size * size]
        return whole(size)

    training.evaluate = without_tail


def training_text_in_validation(training: Training) -> None:
    training.val = [*training.val[:-3], *training.train[5:8]]


FAULTS = [
    Fault("labels shifted twice", "alignment", labels_shifted_twice, frozenset({"initial_loss", "evaluation"})),
    Fault("inverted attention mask", "attention", attention_mask_inverted),
    Fault("loss averaged over padding", "attention", loss_averaged_over_padding, frozenset({"evaluation"})),
    Fault("frozen base outside the graph", "gradients", frozen_base_outside_the_graph),
    Fault("noise added to gradients", "gradients", noise_added_to_gradients),
    Fault("optimizer missing a group", "gradients", optimizer_missing_a_group),
    Fault("weights never arrived", "initial_loss", weights_never_arrived),
    Fault("head made anew on loading", "reload", head_made_anew_on_loading),
    Fault("warm-up truncated to 0", "effective_settings", warmup_truncated_to_0),
    Fault("LR multiplied by the number of devices", "effective_settings", lr_multiplied_by_the_number_of_devices),
    Fault("scheduler stepped every micro-batch", "effective_settings", scheduler_stepped_every_micro_batch),
    Fault("evaluation that drops the tail", "evaluation", evaluation_that_drops_the_tail),
    Fault("training text in validation", "evaluation", training_text_in_validation),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_check_that_owns_a_fault_names_it_first(fault: Fault) -> None:
    training = Training()
    fault.inject(training)
    report = preflight(training.make_setup())
    assert report.failed_checks[:1] == [fault.owner], said(report)
    assert set(report.failed_checks) == {fault.owner} | fault.consequences, said(report)


def as_it_is(training: Training) -> TrainingSetup:
    return training.make_setup()


def with_adapters(training: Training) -> TrainingSetup:
    add_adapters(training)
    return training.make_setup()


def in_bfloat16(training: Training) -> TrainingSetup:
    in_fewer_bits(training, torch.bfloat16)
    return training.make_setup()


def in_float16(training: Training) -> TrainingSetup:
    """With a gradient scaler that begins too high."""
    in_fewer_bits(training, torch.float16)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)

    def step(batch: Any) -> None:
        training.model.train()
        training.optimizer.zero_grad()
        scaler.scale(training.loss(batch)).backward()
        scaler.step(training.optimizer)
        scaler.update()
        training.schedule.step()

    training.step = step
    training.more = {"moved": [scaler]}
    return training.make_setup()


def in_fewer_bits(training: Training, dtype: torch.dtype) -> None:
    plain = training.loss_fn

    def loss(model: nn.Module, batch: Any) -> Any:
        with torch.autocast("cpu", dtype):
            return plain(model, batch)

    training.loss_fn = loss


@pytest.mark.parametrize("kind", [as_it_is, with_adapters, in_bfloat16, in_float16], ids=lambda kind: kind.__name__)
def test_nothing_fails_on_a_healthy_training_and_what_passes_is_said_in_a_line(
    kind: Callable[[Training], TrainingSetup],
) -> None:
    report = preflight(kind(Training()))
    assert not report.failed_checks, said(report)
    told = [f"{finding.what}: {finding.seen}" for _, finding in report if finding.level == "pass"]
    assert not [line for line in told if len(line) > 100]


def said(report: PreflightReport) -> str:
    return "\n".join(f"{check}: {finding}" for check, finding in report if finding.level == "fail")
