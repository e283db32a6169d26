import math

import pytest

from harness.evidence.judging.error_budget import (
    LOOP_ERROR,
    ONE_RUN_ERROR,
    RERUN_ERROR,
    count_needed_runs,
    find_one_run_level,
    find_rerun_level,
)


def test_the_levels_of_a_loop_of_any_length_sum_up_to_5_percent() -> None:
    single = sum(map(find_one_run_level, range(1, 100_001)))
    fresh = sum(find_rerun_level([False] * number) for number in range(1000))
    assert single < ONE_RUN_ERROR
    assert fresh < RERUN_ERROR
    assert single + fresh == pytest.approx(LOOP_ERROR, rel=1e-3)


def test_the_level_of_a_shown_candidate_is_passed_on_once() -> None:
    first, second = find_rerun_level([]), find_rerun_level([False])
    assert find_rerun_level([True]) == pytest.approx(first + second)
    assert find_rerun_level([True, False]) == find_rerun_level([False, False])


@pytest.mark.parametrize("n_reference", [3, 4, 5, 8])
@pytest.mark.parametrize("level", [0.02, 0.0067, 0.002])
def test_the_needed_runs_are_the_fewest_for_which_all_lower_is_rare_enough(n_reference: int, level: float) -> None:
    needed = count_needed_runs(n_reference, level)
    assert needed is not None
    assert 1 / math.comb(n_reference + needed, needed) <= level < 1 / math.comb(n_reference + needed - 1, needed - 1)


def test_without_a_reference_no_number_of_runs_is_enough() -> None:
    assert count_needed_runs(0, 0.02) is None
    assert count_needed_runs(1, 0.001) is None
