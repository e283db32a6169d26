"""The band of learning rates computed from a range test."""

import math
import re

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


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_sweep_is_centred_on_the_best_lr(noise) -> None:
    band = compute_lr_band(LRS, make_losses(noise))
    low, high = band.search_range
    assert low < band.best_lr < high
    assert 0.5 < math.sqrt(low * high) / band.best_lr < 2


def test_best_lr_stays_inside_when_the_loss_explodes_right_above_it() -> None:
    for peak in np.geomspace(1e-4, 1e-1, 61):
        relative = LRS / peak
        steep = np.where(relative > 1.05, 9.0, np.where(relative < 0.01, 6.0, 6 - np.log10(100 * relative)))
        band = compute_lr_band(LRS, steep)
        for low, high in ((band.low, band.high), band.search_range):
            assert low < band.best_lr < high
        assert band.search_range[1] <= 3 * band.best_lr


def test_small_but_clear_fall_is_used_and_called_weak() -> None:
    weak = compute_lr_band(LRS, 6 + 0.01 * (make_losses(0.02) - 6))
    assert isinstance(weak, LRBand)
    assert 3e-3 < weak.best_lr < 3e-2
    assert re.match(r"weak: a fall of 0\.3% of the loss, \d+ times its noise; more --steps", weak.evidence)
    strong = compute_lr_band(LRS, make_losses(0.02))
    assert strong.evidence.startswith("strong: a fall of 3")


def test_fall_up_to_the_last_lr_is_weak_evidence() -> None:
    falling = compute_lr_band(LRS, 6 - 2 / (1 + np.exp(-4 * np.log10(LRS))))
    assert falling.evidence.startswith("weak: ")
    assert "it still fell at the last LR: raise --high" in falling.evidence


SHORT_STEPS = np.arange(20)
NOISE = 0.02 * np.random.default_rng(1).standard_normal(20)


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("steps", [0.3, 1, 2, 3, 5, 8, 20])
def test_loss_that_falls_from_the_first_lr_on_learns(steps: float, noise: float) -> None:
    """A fast or slow fall is no noise, and a lower start shows where it begins."""
    found = compute_lr_band(
        np.geomspace(0.1, 0.2, 20), 7.52 - 1.23 * (1 - np.exp(-SHORT_STEPS / steps)) + noise * NOISE
    )
    text = found if isinstance(found, str) else found.evidence
    assert "start lower, with --low" in text
    assert "preflight" not in text
    assert isinstance(found, LRBand) or steps < 2


def test_loss_that_falls_little_at_the_first_lrs_and_much_later_has_strong_evidence() -> None:
    band = compute_lr_band(LRS, make_losses(noise=0.0) - 0.001 * np.arange(100))
    assert band.evidence.startswith("strong: ")


@pytest.mark.parametrize(
    ("lrs", "losses", "remedy"),
    [
        (np.geomspace(1, 10, 20), 6 + SHORT_STEPS / 10, "start lower, with --low"),  # all too high
        (np.geomspace(1e-8, 1e-6, 20), 6 - SHORT_STEPS / 1e5, "raise --high"),  # all too low
        (np.geomspace(1e-8, 1e-6, 20), 6 + NOISE, "raise --high"),
        (np.geomspace(1e-6, 10, 20), 6 + NOISE, "the model learns at no LR; run `plateau preflight`"),
    ],
)
def test_reason_without_a_band_names_the_remedy(lrs: np.ndarray, losses: np.ndarray, remedy: str) -> None:
    assert remedy in compute_lr_band(lrs, losses)


@pytest.mark.parametrize("steps", [20, 40, 100])
def test_noise_alone_seldom_has_a_band(steps: int) -> None:
    rng, lrs = np.random.default_rng(2), np.geomspace(1e-6, 10, steps)
    found = [compute_lr_band(lrs, 6 + 0.05 * rng.standard_normal(steps)) for _ in range(200)]
    assert sum(isinstance(one, LRBand) for one in found) <= 8


@pytest.mark.parametrize(
    ("losses", "remedy"),
    [
        ([6.0, 50.0, 900.0], "never fell; start lower, with --low"),
        ([6.0, 5.99, 6.4, 9.0, 900.0], "never fell; start lower, with --low"),
        ([7.6, 7.6, 7.5, 7.4, 7.0, 6.5, 8.0, 27.0], "too soon for a band: 8 of 20 losses; use more --steps"),
    ],
)
def test_remedy_of_an_early_explosion_depends_on_whether_the_loss_fell(losses: list[float], remedy: str) -> None:
    found = compute_lr_band(np.geomspace(1e-3, 1, len(losses)), losses)
    assert found.endswith(remedy)
    assert f"exploded after {len(losses)} steps at an LR of 1.0e+00" in found
