import numpy as np
import pytest

from benchmarks.evidence import NOISES
from benchmarks.judging import find_first_keeps, measure_power
from tests.evidence.judging.loops import (
    baseline_rows,
    judge_log,
    judge_table,
    make_log,
    make_run,
    read_log,
    write_table,
)


def find_limit(n_loops: int) -> float:
    """Return the share of loops that a rate of 5% exceeds in 2% of simulations."""
    return 0.05 + 2 * float(np.sqrt(0.05 * 0.95 / n_loops))


@pytest.mark.parametrize("noise", ["normal", "Student t, 3"])
def test_a_loop_of_changes_that_do_nothing_keeps_any_in_at_most_5_percent(noise: str) -> None:
    assert np.mean(find_first_keeps(NOISES[noise], 5, 20, True, 50) <= 20) <= find_limit(50)


@pytest.mark.slow
@pytest.mark.parametrize("n_repeats", [3, 4, 5])
@pytest.mark.parametrize("reruns", [False, True])
@pytest.mark.parametrize("noise", ["normal", "Student t, 3", "lognormal", "10% of seeds 10 SD worse", "two basins"])
def test_false_keeps_over_whole_loops_of_all_kinds(noise: str, n_repeats: int, reruns: bool) -> None:
    first = find_first_keeps(NOISES[noise], n_repeats, 100, reruns, 150)
    for n_tries in (20, 50, 100):
        assert np.mean(first <= n_tries) <= find_limit(150)


def test_improvements_of_4_sd_are_kept_with_reruns() -> None:
    assert measure_power(NOISES["normal"], 5, 4.0, 0, True, 40) >= 0.8


def test_one_run_far_beyond_the_noise_is_kept(tmp_path) -> None:
    found = judge_table(write_table(tmp_path, *baseline_rows(), "bbbbbb2  1.2650  4.1  keep  wider"))
    assert (found.verdict, found.exit_status, found.tries) == ("keep", 0, 1)
    assert found.evidence is not None
    assert found.evidence.high < 0
    assert found.evidence.p <= found.evidence.level


def test_one_run_a_little_better_is_discarded_with_what_to_do(tmp_path) -> None:
    found = judge_table(write_table(tmp_path, *baseline_rows(), "bbbbbb2  1.2800  4.1  keep  wider"))
    assert found.verdict == "discard"
    assert dict(found.needed) == {"candidate": 3}
    assert "3 more times with other seeds" in found.next[0]


def test_the_runs_asked_for_decide_and_the_first_is_left_out(tmp_path) -> None:
    fresh = [f"bbbbbb2  {value}  4.1  run  wider, seed {k}" for k, value in enumerate((1.2803, 1.2805, 1.2801))]
    found = judge_table(write_table(tmp_path, *baseline_rows(), "bbbbbb2  1.2800  4.1  run  wider", *fresh))
    assert found.verdict == "keep"
    assert found.evidence is not None
    assert (found.evidence.n_candidate, found.evidence.n_reference, found.rerun_number) == (3, 5, 1)


def test_a_decision_stands_until_there_are_twice_as_many_runs() -> None:
    repeats = [make_run(k, "baseline", value) for k, value in enumerate([0.0, 1.0, 0.5, 0.2, 0.8])]
    first = [make_run(10, "a", -1.0), *(make_run(11 + k, "a", value) for k, value in enumerate([0.3, -2.0, 0.2]))]
    found = judge_log(make_log(*repeats, *first))
    assert found.verdict == "discard"
    assert dict(found.needed) == {"candidate": 3}
    peek = judge_log(make_log(*repeats, *first, make_run(20, "a", -2.5), make_run(21, "a", -2.4)))
    assert peek.verdict == "discard"
    assert peek.evidence is not None
    assert peek.evidence.n_candidate == 3
    more = [make_run(20 + k, "a", value) for k, value in enumerate([-2.5, -2.4, -2.3])]
    later = judge_log(make_log(*repeats, *first, *more))
    assert later.evidence is not None
    assert later.evidence.n_candidate == 6
    assert later.evidence.level < peek.evidence.level


def test_runs_that_are_added_do_not_repeat_the_test_of_the_first_run() -> None:
    """The mean of two lucky runs is beyond a margin that the first run alone is within."""
    repeats = [make_run(k, "baseline", value) for k, value in enumerate([0.0, 1.0, 0.5, 0.2, 0.8])]
    first = make_run(10, "a", -5.0)
    alone = judge_log(make_log(*repeats, first))
    added = judge_log(make_log(*repeats, first, make_run(11, "a", -9.0)))
    assert alone.verdict == added.verdict == "discard"
    assert alone.evidence == added.evidence
    assert dict(added.needed) == {"candidate": 2}


def test_fresh_runs_overrule_the_first_run() -> None:
    repeats = [make_run(k, "baseline", value) for k, value in enumerate([0.0, 1.0, 0.5, 0.2, 0.8])]
    first = make_run(10, "a", -30.0)
    assert judge_log(make_log(*repeats, first)).verdict == "keep"
    found = judge_log(make_log(*repeats, first, *(make_run(11 + k, "a", value) for k, value in enumerate([0, 1, 0.5]))))
    assert found.verdict == "discard"
    assert "3 fresh runs are within the noise" in found.reasons[0]


def test_later_tries_need_more() -> None:
    repeats = [make_run(k, "baseline", value) for k, value in enumerate([0.0, 1.0, 0.5, 0.2, 0.8])]
    levels = []
    for n_tries in (1, 20, 100):
        runs = [make_run(10 + k, f"change {k}", 0.5) for k in range(n_tries - 1)]
        found = judge_log(make_log(*repeats, *runs, make_run(500, "last", -4.0)))
        assert found.tries == n_tries
        assert found.evidence is not None
        levels.append(found.evidence.level)
    assert levels[0] > levels[1] > levels[2]


@pytest.mark.parametrize("n_repeats", [1, 2])
def test_one_or_two_repeats_cannot_tell(tmp_path, n_repeats: int) -> None:
    better = write_table(tmp_path, *baseline_rows()[:n_repeats], "bbbbbb2  1.2650  4.1  keep  wider")
    found = judge_table(better)
    assert (found.verdict, found.exit_status) == ("cannot tell", 2)
    assert dict(found.needed) == {"reference": 3 - n_repeats}
    assert "of baseline" in found.next[0]
    worse = write_table(tmp_path, *baseline_rows()[:n_repeats], "bbbbbb2  1.2950  4.1  keep  wider")
    assert judge_table(worse).verdict == "discard"


def test_repeats_that_are_all_equal_do_not_measure_noise(tmp_path) -> None:
    found = judge_table(write_table(tmp_path, *baseline_rows([1.285] * 4), "bbbbbb2  1.2650  4.1  keep  wider"))
    assert found.verdict == "cannot tell"
    assert "does the seed change anything" in found.reasons[0]


def test_repeats_with_one_seed_count_once(tmp_path) -> None:
    header = "commit\tval_bpb\tseed\tdescription"
    rows = [f"aaaaaa1  {value}  42  baseline" for value in (1.285, 1.2851, 1.2852)]
    found = judge_table(write_table(tmp_path, *rows, "bbbbbb2  1.2650  42  wider", header=header))
    assert found.verdict == "cannot tell"


def test_what_was_kept_last_is_to_be_beaten(tmp_path) -> None:
    rows = [*baseline_rows(), "bbbbbb2  1.2650  4.1  keep  wider", "ccccccc  1.2700  4.1  keep  deeper"]
    found = judge_table(write_table(tmp_path, *rows))
    assert found.verdict == "discard"
    assert found.reference is not None
    assert found.reference.name == "bbbbbb2 (wider)"
    assert "not better" in found.reasons[0]


def test_the_best_of_single_runs_must_be_repeated_before_it_is_beaten_by_a_little(tmp_path) -> None:
    rows = [*baseline_rows(), "bbbbbb2  1.2650  4.1  keep  wider", "ccccccc  1.2600  4.1  run  deeper"]
    found = judge_table(write_table(tmp_path, *rows))
    assert found.verdict == "discard"
    assert dict(found.needed) == {"reference": 4}
    assert "bbbbbb2 (wider)" in found.next[0]


def test_repeats_appended_later_do_not_change_what_is_judged(tmp_path) -> None:
    rows = [*baseline_rows()[:1], "bbbbbb2  1.2800  4.1  run  wider", *baseline_rows()[1:]]
    found = judge_table(write_table(tmp_path, *rows))
    assert found.candidate is not None
    assert found.candidate.name == "bbbbbb2 (wider)"
    assert found.reference is not None
    assert len(found.reference.values) == 5


def test_more_is_better_where_the_metric_says_so(tmp_path) -> None:
    header = "commit\taccuracy\tdescription"
    rows = [f"aaaaaa1  {value}  baseline" for value in (0.900, 0.902, 0.901, 0.899, 0.9005)]
    up = judge_table(write_table(tmp_path, *rows, "bbbbbb2  0.95  wider", header=header))
    assert up.verdict == "keep"
    assert up.evidence is not None
    assert up.evidence.difference > 0
    assert up.evidence.low > 0
    assert judge_table(write_table(tmp_path, *rows, "bbbbbb2  0.85  wider", header=header)).verdict == "discard"


def test_crashes_do_not_count_as_tries(tmp_path) -> None:
    crash = "ccccccc  0.000000  0.0  crash  too wide"
    log = read_log(write_table(tmp_path, *baseline_rows(), crash, "bbbbbb2  1.2650  4.1  keep  wider"))
    assert judge_log(log).tries == 1
    assert any("crash" in note for note in log.notes)
