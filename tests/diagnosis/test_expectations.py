"""Forecasts: what one is, when it is judged, and what is said of it."""

import pytest

from harness.diagnosis.expectations import find_missed_expectations, parse_expectation, summarize_expectations
from harness.diagnosis.history import History, RunFacts


def run(**facts: object) -> History:
    """Evaluated at steps 100, 200, 300 as 4.0, 3.5, 3.25."""
    history = History(RunFacts(**facts))
    for step, loss in ((100, 4.0), (200, 3.5), (300, 3.25)):
        history.add_row(step, {"val/loss": loss})
    return history


def test_a_forecast_is_read_in_all_its_forms() -> None:
    expected = parse_expectation(" epoch 5: val/loss < 3.2 ")
    assert (expected.unit, expected.at, expected.metric, expected.sign, expected.bound) == (
        "epoch", 5, "val/loss", "<", 3.2,
    )  # fmt: skip
    assert expected.text == "epoch 5: val/loss < 3.2"
    assert parse_expectation("tokens 1e6: train/loss<4").at == 1_000_000
    assert parse_expectation("step 1_500: val/blimp > 0.65").at == 1500


NO_FORECASTS = [
    "", "val/loss < 3", "epoch five: val/loss < 3", "step 5: val/loss <", "step 5 val/loss < 3", "week 5: val/loss < 3",
    "step -1: val/loss < 3", "step 5: val/loss < nan", 5,
]  # fmt: skip


@pytest.mark.parametrize("text", NO_FORECASTS)
def test_what_is_no_forecast_is_refused_with_the_grammar(text) -> None:
    with pytest.raises(ValueError, match=r"is no forecast; a forecast is 'step 1500: val/loss < 6.65'") as said:
        parse_expectation(text)
    assert repr(text) in str(said.value)


@pytest.mark.parametrize(
    ("text", "outcome", "step", "seen"),
    [
        ("step 200: val/loss < 3.6", "met", 200, 3.5),
        ("step 200: val/loss < 3.5", "missed", 200, 3.5),
        ("step 101: val/loss < 3.6", "met", 200, 3.5),  # the first evaluation from there on, nothing in between
        ("step 201: val/loss < 3.3", "met", 300, 3.25),
        ("step 100: val/loss > 4.5", "missed", 100, 4.0),
        ("epoch 2: val/loss < 3.6", "met", 200, 3.5),
        ("tokens 2001: val/loss < 3", "missed", 300, 3.25),
        ("step 301: val/loss < 3", "not yet", None, None),
        ("step 100: val/blimp > 0.6", "not yet", None, None),
    ],
)
def test_a_forecast_is_judged_at_the_first_evaluation_at_or_after_its_moment(text, outcome, step, seen) -> None:
    judged = parse_expectation(text).evaluate(run(steps_per_epoch=100.2, tokens_per_step=10))
    assert (judged.outcome, judged.step, judged.value) == (outcome, step, seen)


def test_a_moment_that_a_run_ended_before_is_never_reached() -> None:
    late = parse_expectation("step 301: val/loss < 3")
    assert late.evaluate(run(status="interrupted")).outcome == "never reached"
    assert late.evaluate(run(total_steps=300)).outcome == "never reached"
    assert late.evaluate(run(total_steps=400)).outcome == "not yet"


@pytest.mark.parametrize("text", ["epoch 1: val/loss < 9", "tokens 10: val/loss < 9"])
def test_where_nothing_tells_of_epochs_or_tokens_a_forecast_of_them_is_not_judged(text) -> None:
    assert parse_expectation(text).evaluate(run()).outcome == "not known"


def test_only_a_missed_forecast_raises_an_alarm_and_says_by_how_much() -> None:
    texts = ["step 100: val/loss < 3.75", "step 200: val/loss < 3.6", "step 900: val/loss < 3"]
    [alarm] = find_missed_expectations(map(parse_expectation, texts), run())
    assert (alarm.kind, alarm.step) == ("expectation", 100)
    assert alarm.reason == "forecast 'step 100: val/loss < 3.75' did not hold: 4, 0.25 above it"
    assert alarm.evidence == {"forecast": texts[0], "seen": 4.0, "bound": 3.75, "off by": 0.25}


def test_the_score_counts_every_outcome_and_tells_how_far_off_they_were() -> None:
    texts = ["step 100: val/loss < 3.75", "step 200: val/loss < 3.6", "step 900: val/loss < 3", "epoch 1: val/loss < 9"]
    judged = [parse_expectation(text).evaluate(run()) for text in texts]
    said = "1 of 4 forecasts held, 1 missed, 1 not yet, 1 not known; val/loss lay 0.075 above its bounds on average"
    assert summarize_expectations(judged) == said
    assert str(judged[1]) == "step 200: val/loss < 3.6: met, 3.5 at step 200, 0.1 below it"
    assert summarize_expectations([]) == ""
