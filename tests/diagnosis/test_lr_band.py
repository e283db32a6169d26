"""The band of learning rates computed from a range test."""

import numpy as np
import pytest

from harness.diagnosis.lr_band import LRBand, compute_lr_band

LRS = np.geomspace(1e-7, 10, 100)


def make_losses(noise: float = 0.02, fall: float = 2.0) -> np.ndarray:
    """Return a loss of 6 that falls around an LR of 1e-3 and rises from 1e-2 on."""
    decades = np.log10(LRS)
    falling = fall / (1 + np.exp(-4 * (decades + 3)))
    rising = np.maximum(0, decades + 2) ** 2
    return 6 - falling + rising + np.random.default_rng(0).normal(0, noise, len(LRS))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_band_surrounds_the_lr_with_the_lowest_loss(noise) -> None:
    band = compute_lr_band(LRS, make_losses(noise))
    assert isinstance(band, LRBand)
    assert 3e-3 < band.best_lr < 3e-2
    assert band.best_lr / 45 < band.low < band.best_lr / 20  # rounded to one digit
    assert 2 * band.best_lr < band.high < 4.5 * band.best_lr
    assert band.reason.startswith("the loss fell from 6")


def test_noise_alone_has_no_band() -> None:
    assert "learns at no LR" in compute_lr_band(LRS, make_losses(noise=0.1, fall=0.0))


def test_band_ends_where_the_loss_is_back_at_its_start() -> None:
    cliff = np.where(LRS > 2e-2, 9.0, np.where(LRS < 1e-4, 6.0, 6 - np.log10(LRS / 1e-4)))
    band = compute_lr_band(LRS, cliff)
    assert band.high <= 2e-2 < 3 * band.best_lr


def test_band_is_at_least_a_decade_wide() -> None:
    steep = np.where(LRS < 1e-2, 6.0, np.where(LRS < 2e-2, 3.0, 9.0)) + np.random.default_rng(0).normal(0, 0.01, 100)
    band = compute_lr_band(LRS, steep)
    assert band.high / band.low >= 10


def test_a_test_that_exploded_at_once_suggests_a_lower_start() -> None:
    assert "start lower" in compute_lr_band([1.0, 2.0, 3.0], [6.0, 50.0, 900.0])
