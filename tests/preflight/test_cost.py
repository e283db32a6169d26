"""What a run and a sweep are said to take."""

import re
import time
from dataclasses import replace
from typing import Any

import psutil
import pytest

from harness.preflight import Finding
from harness.preflight.cost import check, describe_duration
from tests.preflight.healthy_trainings import Training


def findings(**asked: Any) -> dict[str, Finding]:
    made = Training().make_setup()
    made.asked = replace(made.asked, **asked)
    with made.preserved_state():
        return {finding.what: finding for finding in check(made)}


def test_a_run_and_the_sweep_that_it_is_one_of_are_told_in_time_and_memory() -> None:
    found = findings(runs=24, at_once=2)
    assert re.fullmatch(
        r"[\d.e-]+ s a step; .* for 40 steps and 4 evaluations; .* for 24 runs, 2 at once, none cut short",
        found["time"].seen,
    )
    assert found["memory"].level == "pass"
    assert "for 2 runs at once" in found["memory"].seen


def test_a_slower_evaluation_of_a_part_counts_for_the_whole() -> None:
    training = Training()
    evaluate = training.evaluate

    def slow(size: int) -> Any:
        time.sleep(0.1)
        return evaluate(size)

    training.evaluate, training.more = slow, {"evaluated_share": 0.001}
    made = training.make_setup()
    [told, _] = check(made)
    assert "minutes for 40 steps and 4 evaluations" in told.seen  # 4 * 0.1 s / 0.001 is 400 s


def test_runs_at_once_that_need_more_than_the_machine_has_warn() -> None:
    enough = 2 * psutil.virtual_memory().total // psutil.Process().memory_info().rss
    found = findings(runs=enough, at_once=enough)["memory"]
    assert found.level == "warn"
    assert "micro_batch_size" in found.look_at


def test_without_a_step_nothing_is_measured() -> None:
    training = Training()
    training.more = {"step": None}
    [found] = check(training.make_setup())
    assert found.level == "not checked"


@pytest.mark.parametrize(("seconds", "said"), [(0.5, "0.5 seconds"), (90, "90 seconds"), (9000, "2.5 hours")])
def test_spans_are_in_a_unit_that_one_would_say(seconds: float, said: str) -> None:
    assert describe_duration(seconds) == said
