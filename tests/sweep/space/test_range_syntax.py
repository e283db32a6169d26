"""Ranges that cannot be searched are answered with one that can, as it was typed."""

import re

import pytest

from harness.core.errors import ConfigError
from harness.sweep.programs.training.request import compose_sweep_request
from harness.sweep.space.range_syntax import explain_number_error, parse_ranges


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("optimizer.lr=log(1e-2,1e-4)", "optimizer.lr=log(1e-4,1e-2)"),
        ("optimizer.lr=tag(log, interval(1e-2, 1e-4))", "optimizer.lr=tag(log, interval(1e-4, 1e-2))"),
        ("optimizer.lr=interval(start=0.1,end=1e-4)", "optimizer.lr=interval(start=1e-4,end=0.1)"),
        ("lora.rank=int(log(64,4))", "lora.rank=int(log(4,64))"),
        ("lora.rank=range(10,1,3)", "lora.rank=range(1,10,3)"),
        ("loop.grad_clip=interval(1,-1.5e-3)", "loop.grad_clip=interval(-1.5e-3,1)"),
    ],
)
def test_swapped_bounds_keep_the_form_that_was_typed(typed: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"above the upper bound; write '{remedy}'")):
        parse_ranges([typed])
    assert parse_ranges([remedy])[0]


@pytest.mark.parametrize(
    ("value", "kind", "remedy"),
    [
        ("'1e-4..1e-2'", "number", "key=log(1e-4,1e-2)"),
        ("'4:64'", "whole number", "key=int(log(4,64))"),
        ("'[0.1, 10]'", "number", "key=log(0.1,10)"),
        ("'2-8'", "whole number", "key=int(log(2,8))"),
    ],
)
def test_text_that_looks_like_a_range_is_answered_with_one(value: str, kind: str, remedy: str) -> None:
    message = explain_number_error(f"key: {value} is not a {kind}")
    assert f"; for a range write '{remedy}'; ranges are log(low,high)" in message
    assert parse_ranges([remedy])[0]


@pytest.mark.parametrize("typed", ["drop=choice(nan,foo)", "drop=nan,1", "drop=choice(NaN,1)"])
def test_nan_is_no_choice(typed: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{typed}: nan equals no value")):
        parse_ranges([typed])
    assert parse_ranges(["drop='nan',1"])[0]


def test_other_messages_about_values_are_left_alone() -> None:
    for message in ("key: 0 must be at least 1", "key: True is not a number"):
        assert explain_number_error(message) == message
    assert "write" not in explain_number_error("key: 'high' is not a number")


def test_sweep_answers_a_text_with_the_forms_of_a_range() -> None:
    with pytest.raises(ConfigError, match=r"optimizer.lr: '1e-4..1e-2' is not a number; for a range write"):
        compose_sweep_request(["optimizer.lr=1e-4..1e-2"])
