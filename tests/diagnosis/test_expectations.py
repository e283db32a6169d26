"""Parsing, evaluating and summarizing expectations."""

import pytest

from harness.diagnosis.expectations import find_missed_expectations, parse_expectation, summarize_expectations
from harness.diagnosis.history import History, RunFacts


def make_history(**facts: object) -> History:
    """Return a history with evaluations at steps 100, 200, 300: 4.0, 3.5, 3.25."""
    history = History(RunFacts(**facts))
    for step, loss in ((100, 4.0), (200, 3.5), (300, 3.25)):
        history.add_row(step, {"val/loss": loss})
    return history


def test_parse_expectation() -> None:
    expected = parse_expectation(" epoch 5: val/loss < 3.2 ")
    assert (expected.unit, expected.at, expected.metric, expected.sign, expected.bound) == (
        "epoch", 5, "val/loss", "<", 3.2,
    )  # fmt: skip
    assert expected.text == "epoch 5: val/loss < 3.2"
    assert parse_expectation("tokens 1e6: train/loss<4").at == 1_000_000
    assert parse_expectation("step 1_500: val/blimp > 0.65").at == 1500


INVALID = [
    "", "val/loss < 3", "epoch five: val/loss < 3", "step 5: val/loss <", "step 5 val/loss < 3", "week 5: val/loss < 3",
    "step -1: val/loss < 3", "step 5: val/loss < nan", 5,
]  # fmt: skip


@pytest.mark.parametrize("text", INVALID)
def test_parse_expectation_rejects_invalid_text_with_the_syntax(text) -> None:
    with pytest.raises(ValueError, match="is not a valid expectation; write 'step 1500: ") as caught:
        parse_expectation(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "outcome", "step", "value"),
    [
        ("step 200: val/loss < 3.5", "missed", 200, 3.5),
        ("step 101: val/loss < 3.6", "met", 200, 3.5),  # at the next evaluation, without interpolation
        ("step 201: val/loss < 3.3", "met", 300, 3.25),
        ("step 100: val/loss > 4.5", "missed", 100, 4.0),
        ("epoch 2: val/loss < 3.6", "met", 200, 3.5),
        ("tokens 2001: val/loss < 3", "missed", 300, 3.25),
    ],
)
def test_evaluate_uses_the_first_evaluation_at_or_after_the_moment(text, outcome, step, value) -> None:
    result = parse_expectation(text).evaluate(make_history(steps_per_epoch=100.2, tokens_per_step=10))
    assert (result.outcome, result.step, result.value) == (outcome, step, value)


@pytest.mark.parametrize(
    ("text", "facts", "outcome"),
    [
        ("step 301: val/loss < 3", {}, "pending"),
        ("step 100: val/blimp > 0.6", {}, "pending"),
        ("step 301: val/loss < 3", {"total_steps": 400}, "pending"),
        ("step 301: val/loss < 3", {"total_steps": 300}, "not reached"),
        ("step 301: val/loss < 3", {"status": "interrupted"}, "not reached"),
        ("epoch 1: val/loss < 9", {}, "unknown"),
        ("tokens 10: val/loss < 9", {}, "unknown"),
    ],
)
def test_evaluate_without_a_value(text, facts, outcome) -> None:
    assert parse_expectation(text).evaluate(make_history(**facts)).outcome == outcome


def test_find_missed_expectations() -> None:
    texts = ["step 100: val/loss < 3.75", "step 200: val/loss < 3.6", "step 900: val/loss < 3"]
    [missed] = find_missed_expectations(map(parse_expectation, texts), make_history())
    assert (missed.kind, missed.step) == ("expectation", 100)
    assert missed.reason == "expected 'step 100: val/loss < 3.75', got 4 (0.25 above)"
    assert missed.evidence == {"expectation": texts[0], "value": 4.0, "bound": 3.75, "deviation": 0.25}


def test_summarize_expectations() -> None:
    texts = ["step 100: val/loss < 3.75", "step 200: val/loss < 3.6", "step 900: val/loss < 3", "epoch 1: val/loss < 9"]
    results = [parse_expectation(text).evaluate(make_history()) for text in texts]
    assert summarize_expectations(results) == (
        "1 of 4 expectations met, 1 missed, 1 pending, 1 unknown; val/loss was 0.075 above its bound on average"
    )
    assert str(results[1]) == "step 200: val/loss < 3.6: met (3.5 at step 200, 0.1 below)"
    assert summarize_expectations([]) == ""
