"""Relative errors of fields, compared with the neuraloperator library."""

import math

import pytest
import torch

from harness.training.operator_losses import relative_h1, relative_l2


@pytest.fixture(scope="module")
def fields() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(5, 1, 12, 17, dtype=torch.float64, generator=generator) for _ in range(2))


def test_equals_neuraloperator(fields) -> None:
    from neuralop.losses import H1Loss, LpLoss

    for index in range(len(fields[0])):
        predicted, true = (each[index : index + 1] for each in fields)
        assert relative_l2(predicted, true).item() == pytest.approx(LpLoss(d=2, p=2)(predicted, true).item(), rel=1e-7)
        assert relative_h1(predicted, true).item() == pytest.approx(H1Loss(d=2)(predicted, true).item(), rel=1e-7)


def test_error_of_zero_prediction_is_one(fields) -> None:
    true = fields[1]
    for error in (relative_l2, relative_h1):
        torch.testing.assert_close(error(torch.zeros_like(true), true), torch.ones(5, dtype=torch.float64))


def test_h1_uses_slopes_on_unit_square() -> None:
    at = torch.arange(256, dtype=torch.float64) / 256
    wave = torch.sin(2 * math.pi * at).expand(256, 256)[None, None]
    constant = torch.ones_like(wave)  # |wave|^2 = 1/2, |its slope|^2 = (2 pi)^2 / 2
    expected = 1 / math.sqrt(0.5 + 2 * math.pi**2)
    assert relative_h1(wave + constant, wave).item() == pytest.approx(expected, rel=1e-3)


def test_all_channels_count(fields) -> None:
    true = torch.cat(fields, dim=1)
    predicted = true.clone()
    predicted[:, 1] = 0
    expected = (fields[1].square().sum((1, 2, 3)) / true.square().sum((1, 2, 3))).sqrt()
    torch.testing.assert_close(relative_l2(predicted, true), expected)


def test_gradient_of_perfect_prediction_is_finite() -> None:
    true = torch.randn(2, 1, 4, 4)
    predicted = true.clone().requires_grad_()
    (relative_l2(predicted, true) + relative_h1(predicted, true)).sum().backward()
    assert predicted.grad.isfinite().all()
