"""Where gradients come from, whether they are right, and whom they reach."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from harness.preflight import Finding, TrainingSetup, preflight
from harness.training.lora import add_adapters as add_lora_adapters
from tests.preflight.healthy_trainings import PEAK, Training
from tests.preflight.other_trainings import make_operator_setup, relative_field_loss
from tests.preflight.test_faults import add_adapters


def found(subject: TrainingSetup) -> dict[str, Finding]:
    return {finding.what: finding for _, finding in preflight(subject, ["gradients"])}


def failed(subject: TrainingSetup) -> list[str]:
    return [what for what, finding in found(subject).items() if finding.level == "fail"]


def test_adapters_whose_first_half_moves_only_after_the_second_are_healthy() -> None:
    training = Training()
    add_adapters(training)
    findings = found(training.make_setup())
    assert {finding.level for finding in findings.values()} == {"pass"}
    assert "parameters without a gradient" not in findings


def test_adapters_of_peft_are_healthy() -> None:
    training = Training()
    add_lora_adapters(training.model, rank=2, alpha=4, dropout=0.1, target_modules="with_head")
    training.set_optimizer([parameter for parameter in training.model.parameters() if parameter.requires_grad])
    assert not failed(training.make_setup())


def test_complex_weights_are_moved_as_pairs() -> None:
    assert {finding.level for finding in found(make_operator_setup()).values()} == {"pass"}


def test_a_gradient_that_is_steadily_wrong_fails_against_differences() -> None:
    training = Training()
    training.model.blocks[0].mlp.up.weight.register_hook(lambda gradient: 0.5 * gradient)
    assert failed(training.make_setup()) == ["gradients against finite differences"]


def test_a_detached_path_fails_although_every_parameter_has_a_gradient() -> None:
    training = Training()
    training.model.blocks[1].attention.register_forward_hook(lambda module, inputs, made: made.detach())
    assert "parameters without a gradient" in failed(training.make_setup())


def test_a_loss_that_draws_anew_each_time_is_told_and_no_slope_is_read_from_it() -> None:
    training = Training()
    plain = training.loss_fn
    training.loss_fn = lambda model, batch: plain(model, batch).sum / 50 * (1 + 0.1 * torch.rand(()))
    findings = found(training.make_setup())
    assert findings["the same batch twice"].level == "warn"
    assert "gradients against finite differences" not in findings


def test_an_optimizer_of_another_copy_of_the_model_fails() -> None:
    training = Training()
    training.set_optimizer(Training().model.parameters())
    findings = found(training.make_setup())
    assert findings["parameters in the optimizer"].level == "fail"
    assert "28 that are not the model's" in findings["parameters in the optimizer"].seen


def test_frozen_parameters_in_the_optimizer_are_told_and_those_that_move_fail() -> None:
    training = Training()
    frozen = training.model.position_embedding.weight.requires_grad_(False)
    findings = found(training.make_setup())
    assert findings["parameters in the optimizer"].level == "warn"
    assert findings["frozen parameters"].level == "pass"
    step = training.step

    def drift(batch: object) -> None:
        step(batch)
        with torch.no_grad():
            frozen.mul_(0.999)

    training.step = drift
    assert failed(training.make_setup()) == ["frozen parameters"]


def test_a_module_that_is_never_called_is_told() -> None:
    training = Training()
    training.model.pooler = nn.Linear(4, 4)
    training.set_optimizer(training.model.parameters())
    finding = found(training.make_setup())["gradients in 4 steps"]
    assert finding.level == "warn"
    assert "pooler.weight" in finding.seen


def test_gradients_that_are_not_finite_fail() -> None:
    training = Training()
    training.model.norm.weight.register_hook(lambda gradient: gradient / 0)
    assert "gradients in 1 steps" in failed(training.make_setup())


def scaled(training: Training, scaler: torch.amp.GradScaler) -> None:
    """Trained in half precision with a gradient scaler, as torch's manual says."""
    plain = training.loss_fn

    def half(model: nn.Module, batch: object) -> object:
        with torch.autocast("cpu", torch.float16):
            return plain(model, batch)

    def step(batch: object) -> None:
        training.optimizer.zero_grad()
        scaler.scale(training.loss(batch)).backward()
        scaler.step(training.optimizer)
        scaler.update()

    training.loss_fn, training.step = half, step


def test_updates_that_a_gradient_scaler_skips_are_looked_past() -> None:
    training, scaler = Training(), torch.amp.GradScaler("cpu", init_scale=2.0**30)
    scaled(training, scaler)
    finding = found(replace(training.make_setup(), moved=[scaler]))["gradients in 4 steps"]
    assert finding.level == "pass", finding
    assert "skipped over overflow" in finding.seen
    assert scaler.get_scale() == 2.0**30
    assert found(training.make_setup())["gradients in 4 steps"].level == "warn", "no one named the scaler"


def test_a_gradient_that_no_scale_makes_finite_fails() -> None:
    training, scaler = Training(), torch.amp.GradScaler("cpu")
    training.model.norm.weight.register_hook(lambda gradient: gradient / 0)
    scaled(training, scaler)
    assert "gradients in 0 steps" in failed(replace(training.make_setup(), moved=[scaler]))


def test_a_group_at_rest_fails() -> None:
    training = Training()
    first, *rest = training.model.parameters()
    training.set_optimizer([{"params": rest}, {"params": [first], "lr": 0.0}])
    finding = found(training.make_setup())["weights in 4 steps"]
    assert finding.level == "fail"
    assert "token_embedding.weight" in finding.seen


def test_bfloat16_weights_are_judged_by_what_can_be_seen_in_them() -> None:
    training = Training()
    training.model.bfloat16()
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=PEAK)
    findings = found(replace(training.make_setup(), step=None, schedule=None))
    assert findings["gradients against finite differences"].level == "not checked"
    assert not [what for what, finding in findings.items() if finding.level == "fail"]


def test_nothing_to_train_fails() -> None:
    training = Training()
    training.model.requires_grad_(False)
    assert failed(training.make_setup()) == ["trainable parameters"]


def test_a_saddle_of_two_zeros_is_no_cut_graph() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.bias = (nn.Parameter(torch.zeros(32)) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.tanh(x * self.first * self.second + self.bias)

    subject = make_operator_setup()
    assert "parameters without a gradient" not in failed(TrainingSetup(Product(), subject.batches, relative_field_loss))
