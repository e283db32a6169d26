import numpy as np
import pytest
from scipy import stats

from harness.evidence.judging.noise_tests import compare_fresh_runs, compare_with_noise, measure_noise
from harness.evidence.statistics.seed_comparison import compare_losses
from tests.evidence.judging.loops import REPEATS, make_log, make_run


@pytest.mark.parametrize("n_repeats", [3, 4])
def test_with_few_repeats_p_and_interval_are_those_of_the_pooled_t_test(n_repeats: int) -> None:
    repeats, value = list(REPEATS[:n_repeats]), 1.28
    log = make_log(*(make_run(number, "baseline", repeat) for number, repeat in enumerate(repeats)))
    noise = measure_noise(log, log.configs[0])
    found = compare_with_noise(log, value, repeats, noise, 0.01)
    sd, error = np.std(repeats, ddof=1), np.sqrt(1 / n_repeats + 1)
    assert found.p == pytest.approx(stats.t.cdf((value - np.mean(repeats)) / (sd * error), n_repeats - 1))
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.99, n_repeats - 1) * sd * error)
    tail = (1 - found.confidence) / 2
    assert found.high == pytest.approx(found.difference + stats.t.isf(tail, n_repeats - 1) * sd * error)
    # against scipy's own test of two samples, the second of one value
    assert found.p == pytest.approx(stats.ttest_ind([value], repeats, alternative="less").pvalue)


def test_many_repeats_do_not_make_the_tail_of_the_noise_normal() -> None:
    repeats = list(np.linspace(-1, 1, 50))
    log = make_log(*(make_run(number, "baseline", value) for number, value in enumerate(repeats)))
    found = compare_with_noise(log, -5.0, repeats, measure_noise(log, log.configs[0]), 0.001)
    scale = np.std(repeats, ddof=1) * np.sqrt(1 + 1 / 50)
    assert found.p == pytest.approx(stats.t.cdf(-5 / scale, 3))


@pytest.mark.parametrize("level", [0.3, 0.05, 0.001])
def test_p_is_at_most_the_level_exactly_where_a_change_is_better(level: float) -> None:
    log = make_log(*(make_run(number, "baseline", value) for number, value in enumerate(REPEATS)))
    noise = measure_noise(log, log.configs[0])
    for value in np.linspace(1.25, 1.3, 101):
        found = compare_with_noise(log, float(value), REPEATS, noise, level)
        assert found.shows_better == (found.p < level) == (found.high < 0)


def test_noise_of_other_configurations_is_pooled_if_the_reference_has_no_repeats() -> None:
    runs = [
        make_run(1, "a", 1.0),
        make_run(2, "a", 1.2),
        make_run(3, "b", 5.0),
        make_run(4, "b", 5.4),
        make_run(5, "c", 9),
    ]
    log = make_log(*runs)
    noise = measure_noise(log, log.configs[2])
    assert noise.sd == pytest.approx(np.sqrt((0.02 + 0.08) / 2))
    assert noise.freedom == 2
    assert measure_noise(make_log(*runs[2:]), log.configs[2]).sd is None


def test_fresh_runs_are_compared_in_the_unit_and_direction_of_the_metric() -> None:
    log = make_log(make_run(1, "baseline", 1.0))
    low = [1.0, 1.1, 1.2, 1.05]
    found = compare_fresh_runs(log, [value - 1 for value in low], low, 0.05)
    expected = compare_losses(low, [value - 1 for value in low])
    assert (found.difference, found.low, found.high, found.p, found.confidence) == (
        expected.difference, expected.low, expected.high, expected.p, expected.confidence
    )  # fmt: skip
    assert found.shows_better
    assert not compare_fresh_runs(log, low, [value - 1 for value in low], 0.05).shows_better
