from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from harness.preflight import Finding, TrainingSetup, preflight
from harness.training.lora import add_adapters
from tests.preflight.healthy_trainings import PEAK_LR, Training
from tests.preflight.other_trainings import make_operator_setup, relative_field_loss
from tests.preflight.test_faults import add_lora


def check_gradients(setup: TrainingSetup) -> dict[str, Finding]:
    return {finding.title: finding for _, finding in preflight(setup, ["gradients"])}


def get_failed(setup: TrainingSetup) -> list[str]:
    return [title for title, finding in check_gradients(setup).items() if finding.level == "fail"]


def test_lora_passes_although_its_first_matrix_has_no_gradient_at_first() -> None:
    training = Training()
    add_lora(training)
    findings = check_gradients(training.make_setup())
    assert {finding.level for finding in findings.values()} == {"pass"}
    assert "parameters without a gradient" not in findings


def test_peft_adapters_do_not_fail() -> None:
    training = Training()
    add_adapters(training.model, rank=2, alpha=4, dropout=0.1, target_modules="with_head")
    training.set_optimizer([parameter for parameter in training.model.parameters() if parameter.requires_grad])
    assert not get_failed(training.make_setup())


def test_complex_weights_pass() -> None:
    assert {finding.level for finding in check_gradients(make_operator_setup()).values()} == {"pass"}


def test_wrong_gradient_fails_against_finite_differences() -> None:
    training = Training()
    training.model.blocks[0].mlp.up.weight.register_hook(lambda gradient: 0.5 * gradient)
    assert get_failed(training.make_setup()) == ["gradients and finite differences"]


def test_detached_path_fails() -> None:
    training = Training()
    training.model.blocks[1].attention.register_forward_hook(lambda module, inputs, output: output.detach())
    assert "parameters without a gradient" in get_failed(training.make_setup())


def test_random_loss_skips_finite_differences() -> None:
    training = Training()
    plain_loss = training.loss_fn
    training.loss_fn = lambda model, batch: plain_loss(model, batch).sum / 50 * (1 + 0.1 * torch.rand(()))
    findings = check_gradients(training.make_setup())
    assert findings["same batch twice"].level == "skip"
    assert "gradients and finite differences" not in findings


def test_optimizer_of_another_model_fails() -> None:
    training = Training()
    training.set_optimizer(Training().model.parameters())
    finding = check_gradients(training.make_setup())["parameters in the optimizer"]
    assert finding.level == "fail"
    assert "28 that are not in the model" in finding.observed


def test_bfloat16_weights_do_not_fail() -> None:
    training = Training()
    training.model.bfloat16()
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=PEAK_LR)
    setup = replace(training.make_setup(), train_step=None, scheduler=None)
    assert check_gradients(setup)["gradients and finite differences"].level == "skip"
    assert not get_failed(setup)


def test_model_without_trainable_parameters_fails() -> None:
    training = Training()
    training.model.requires_grad_(False)
    assert get_failed(training.make_setup()) == ["trainable parameters"]


def test_saddle_point_does_not_fail_as_missing_gradients() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.bias = (nn.Parameter(torch.zeros(32)) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.tanh(x * self.first * self.second + self.bias)

    setup = TrainingSetup(Product(), make_operator_setup().batches, relative_field_loss)
    assert "parameters without a gradient" not in get_failed(setup)
