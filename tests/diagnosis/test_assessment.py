"""Slopes with intervals, and the rules that could not judge a run."""

import math
import re
from collections.abc import Sequence

import numpy as np
import pytest

from harness.diagnosis import diagnose
from harness.diagnosis.assessment import assess
from harness.diagnosis.history import History, RunFacts
from tests.diagnosis import recorded_runs
from tests.diagnosis.curves import FAMILIES

RNG = np.random.default_rng(7)


def make_history(train: Sequence[float] = (), val: Sequence[float] = (), every: int = 10, **facts: object) -> History:
    """Return a log with a training row every `every` steps and the evaluations spread over it, the first at step 0."""
    history = History(RunFacts(**facts))
    last = every * len(train) or 100 * (len(val) - 1)
    rows: dict[int, dict[str, float]] = {}
    for index, loss in enumerate(train, start=1):
        rows.setdefault(every * index, {})["train/loss"] = loss
    for index, loss in enumerate(val):
        rows.setdefault(round(last * index / max(1, len(val) - 1)), {})["val/loss"] = loss
    for step in sorted(rows):
        history.add_row(step, rows[step])
    return history


def noisy(level: np.ndarray | float, noise: float, count: int = 400) -> list[float]:
    return list(np.broadcast_to(level, count) + noise * RNG.standard_normal(count))


def describe(history: History) -> tuple[set[str], str]:
    """Return the kinds of the diagnoses, and what is printed beside them."""
    found = diagnose(history)
    return {one.kind for one in found}, "\n".join(assess(history, None, found).lines(has_diagnoses=bool(found)))


FALL = 3 + 4 * np.exp(-np.arange(400) / 20)

# Written before the rules: what must be said of a loss of each kind.
CASES = {
    "flat at four evaluations": (make_history(val=[6.93, 6.94, 6.92, 6.93]), {"never learnt"}),
    "flat from the start, 400 rows": (make_history(noisy(6.93, 0.05)), {"never learnt"}),
    "flat from the start on trained weights": (
        make_history(noisy(3.1, 0.02), [3.1, 3.101, 3.099, 3.1, 3.1], unigram_loss=7.0), {"plateau"},
    ),
    "flat after it fell": (make_history(noisy(FALL, 0.01)), {"plateau"}),
    "rising": (make_history(noisy(3 + 0.0007 * np.arange(400), 0.02)), {"rising loss"}),
    "not finite in the last row": (make_history([*noisy(FALL, 0.02)[:200], math.nan]), {"divergence"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_diagnoses_of_short_and_simple_logs(case: str) -> None:
    history, kinds = CASES[case]
    found, text = describe(history)
    assert found == kinds
    assert "no problems found" not in text
    assert text.startswith("slope of")


def test_slope_of_a_loss_of_zero_is_zero() -> None:
    text = describe(make_history([0.0] * 49))[1]
    assert "slope of train/loss: 0 per doubling of steps (95% interval 0 to 0)" in text


def test_flat_tail_of_a_longer_run_is_a_plateau() -> None:
    history = History()
    for step in range(10_000, 14_000, 10):
        history.add_row(step, {"train/loss": 3.0 + 0.01 * RNG.standard_normal()})
    assert describe(history)[0] == {"plateau"}


def test_a_higher_lr_is_never_suggested_for_a_rising_loss() -> None:
    for slope in (0.0003, 0.0007, 0.005):
        history = make_history(noisy(3 + slope * np.arange(400), 0.02), peak_lr=1e-3)
        lrs = [one for found in diagnose(history) for one in found.suggestions if one.key == "optimizer.lr"]
        assert all(float(one.value) < 1e-3 for one in lrs)


def test_three_evaluations_have_a_slope_and_no_verdict() -> None:
    found, text = describe(make_history(val=[3.0, 3.4, 3.9]))
    assert found == set()
    assert text.startswith("too few points to say anything: 3 evaluations and 0 training rows; 4 evaluations or 10 ")
    assert re.search(r"slope of val/loss: \+0\.9 over the whole record \(95% interval \+0\.17 to \+1\.6\)", text)
    assert "overfitting (3 of 4 evaluations)" in text


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_one_or_two_rows_say_nothing(rows: int) -> None:
    found, text = describe(make_history([5.0, 4.0][:rows]))
    assert found == set()
    assert text.startswith(f"too few points to say anything: 0 evaluations and {rows} training row")
    assert ("slope of train/loss: unknown" in text) == (rows > 0)


def test_fall_within_the_noise_is_not_called_fine() -> None:
    found, text = describe(make_history(noisy(np.linspace(3.1, 3.0, 60), 0.5, 60)))
    assert found == set()
    assert text.startswith("cannot tell whether it learns: train/loss changed by ")
    assert "95% interval" in text


def test_healthy_runs_have_no_problems_with_what_was_judged() -> None:
    for family in FAMILIES:
        if family.startswith("healthy"):
            history = FAMILIES[family][0](5).to_history()
            found, text = describe(history)
            assert found == set()
            assert text.startswith("no problems found; judged: divergence, never learnt, ")
            assert "95% interval" in text


def test_healthy_default_runs_say_what_was_not_judged() -> None:
    for seed in range(10):
        curve = recorded_runs.read_curve(recorded_runs.FOLDER / f"default_{seed}.jsonl")
        found, text = describe(curve.history)
        assert found == set()
        assert text.startswith("no problems found; judged: divergence, never learnt, ")
        assert "not judged: " in text


def test_noise_is_not_called_rising_or_fine_and_a_gain_not_flat() -> None:
    fine = rising = 0
    for _ in range(100):
        flat, text = describe(make_history(noisy(5.0, 0.05, 60)))
        fine, rising = fine + ("no problems found" in text), rising + ("rising loss" in flat)
        gain, _ = describe(make_history(noisy(5.0 - 0.3 * np.arange(60) / 60, 0.05, 60)))
        assert "never learnt" not in gain
    assert (fine <= 5, rising <= 2) == (True, True)
