import math

import pytest

from harness.core.formatting import (
    format_confidence,
    format_duration,
    format_interval,
    format_number,
    format_signed,
    shorten_keys,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.36213, "3.362"), (0.0003, "3.00e-04"), (0.0, "0.000"), (4100.4, "4100"), (1e9, "1.000e+09"), (math.nan, "nan")],
)
def test_format_number(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.125, "+0.1250"), (-3e-4, "-3.00e-04"), (-0.0, "0.000"), (math.inf, "+∞"), (-math.inf, "-∞"),
     (math.nan, "unknown")],
)  # fmt: skip
def test_format_signed(value: float, text: str) -> None:
    assert format_signed(value) == text


def test_open_ends_of_an_interval_have_a_sign() -> None:
    assert format_interval(-0.5, math.inf) == "[-0.5000, +∞]"
    assert format_interval(-math.inf, math.inf) == "[-∞, +∞]"


@pytest.mark.parametrize(
    ("confidence", "text"),
    [(0.95, "95%"), (0.9, "90%"), (0.5, "50%"), (1 - 0.05 / 3, "98.3%"), (0.99752, "99.75%"), (0.99996, "99.996%")],
)
def test_a_confidence_never_reads_as_certainty(confidence: float, text: str) -> None:
    assert format_confidence(confidence) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (7260, "2 h 01 min"),
        (2 * 86400 + 7200, "2 d 02 h"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_shortened_keys_are_unique() -> None:
    keys = ["optimizer.lr", "start.optimizer.lr", "lora.rank", "optimizer"]
    assert shorten_keys(keys) == {
        "optimizer.lr": "optimizer.lr", "start.optimizer.lr": "start.optimizer.lr",
        "lora.rank": "rank", "optimizer": "optimizer",
    }  # fmt: skip
