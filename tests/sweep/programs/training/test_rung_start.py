"""The share of a run that the rungs of a sweep follow."""

import pytest

from harness.sweep.programs.training.validation import check_search_space
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA, read_tiny_request

LONGER = [*(one for one in TINY_WITHOUT_LORA if not one.startswith("loop.max_steps")), "loop.max_steps=40"]
DIFFERENT_WARMUPS = "schedule.warmup_ratio=interval(0.0,0.2)"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([DIFFERENT_WARMUPS], 0.2),
        (["schedule.warmup_ratio=0.2"], 0.0),
        ([DIFFERENT_WARMUPS, "start=base"], 0.0),
    ],
    ids=["different warm-ups", "one warm-up", "pretrained"],
)
def test_rungs_follow_the_longest_of_different_warm_ups_from_scratch(
    overrides: list[str], expected: float, places: list[str]
) -> None:
    request = read_tiny_request(*LONGER, *places, "pruner=pausing", *overrides)
    checked = check_search_space(request.space, ())
    assert checked.rung_start == pytest.approx(expected)
