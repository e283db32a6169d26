"""Axes: ranges, ticks and their labels."""

import math
import random
from collections.abc import Iterator

import pytest

from harness.evidence.charts.scales import NumberScale, choose_range, is_spread, label_number, label_steps


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([3.0, 3.5, 4.0], ["3.0", "3.5", "4.0"]),
        ([3.25, 3.5, 3.75], ["3.25", "3.50", "3.75"]),
        ([0, 20_000, 40_000], ["0", "20k", "40k"]),
        ([1_000_000, 1_000_001], ["1,000,000", "1,000,001"]),
        ([0, 1e-5, 2e-5], ["0", "1e-5", "2e-5"]),
        ([0.5], ["0.5"]),
        ([0], ["0"]),
    ],
)
def test_labels_have_the_digits_that_tell_them_apart(values: list[float], labels: list[str]) -> None:
    assert label_steps(values) == labels


def test_single_numbers_are_short() -> None:
    assert [label_number(value) for value in (3e-4, 1.5e-4, 0.1, 8, 12_000, 1e30)] == [
        "3e-4", "1.5e-4", "0.1", "8", "12k", "1e30"
    ]  # fmt: skip


def test_values_far_out_are_left_out_and_counted_but_anchors_are_not() -> None:
    values = [3.0, 3.1, 3.2, 3.3, 3.4]
    found = choose_range([*values, 1e30])
    assert found.low < 3.0
    assert 3.4 < found.high < 4
    assert (found.n_above, found.n_below) == (1, 0)
    assert choose_range(values, [50.0]).high > 50


def test_numbers_of_several_magnitudes_need_a_logarithmic_axis() -> None:
    assert is_spread([1e-4, 1e-3, 1e-2, 1e-1])
    assert not is_spread([0.001 + index / 100 for index in range(20)])  # uniform, though their ratio is large
    assert not is_spread([0, 1, 100])
    assert not is_spread([])


def draw_values(rng: random.Random) -> Iterator[float]:
    """Yield a few values of any size, hard ones among them."""
    special = [0.0, -0.0, 5e-324, 1e-300, 1e308, -1e308, math.nan, math.inf, -math.inf, 1.0, 1.0 + 1e-15]
    size = rng.choice([1, 1, 1e-12, 1e9, 1e100])
    for _ in range(rng.randrange(9)):
        yield rng.choice(special) if rng.random() < 0.3 else size * rng.gauss(rng.choice([0, 5, 1000]), 1)


def test_any_values_have_a_finite_axis_with_labels() -> None:
    for seed in range(2000):
        rng = random.Random(seed)
        values = list(draw_values(rng))
        found = choose_range(values, may_be_log=rng.random() < 0.5)
        assert found.low < found.high, values
        scale = NumberScale(found.low, found.high, 0, 400, found.is_log)
        ticks = scale.choose_ticks()
        assert all(-1e-6 <= place <= 400 + 1e-6 for place, _ in ticks), values
        assert len({text for _, text in ticks}) == len(ticks), (values, ticks)
        assert len(ticks) <= 30, values
        assert all(math.isfinite(scale.place(value)) for value in values if not math.isnan(value)), values
