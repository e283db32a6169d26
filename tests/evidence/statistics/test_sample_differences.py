"""Rates of claims over simulated comparisons, which share their code with compare_losses."""

import numpy as np
import pytest

from benchmarks.evidence import DESIGNS, NOISES, compare_at_levels, draw_pair, read_repeats, tabulate_repeats
from harness.evidence import compare_losses
from harness.evidence.statistics.seed_comparison import STATUSES

SLACK = 3.5  # standard errors of a simulated rate


def find_largest_accidental_rate(rate: float, n_draws: int) -> float:
    return rate + SLACK * np.sqrt(rate * (1 - rate) / n_draws)


def measure_rates(name: str, design: str, n_seeds: int, n_draws: int, shift: float = 0, margin: float | None = None):
    paired, shared = DESIGNS[design]
    rng = np.random.default_rng(len(name) + 100 * n_seeds)
    baseline, candidate = draw_pair(NOISES[name], rng, (n_draws, n_seeds), shared)
    codes = compare_at_levels(baseline, candidate + shift, paired, margin).codes
    return {status: np.mean(codes == code) for code, status in enumerate(STATUSES)}


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", NOISES)
def test_false_claims_under_the_null(name: str, design: str) -> None:
    """At most 2.5% of 1,000 comparisons are "better", whatever the noise, up to the error of the simulation."""
    for n_seeds in (2, 3, 4, 5, 8):
        rates = measure_rates(name, design, n_seeds, 1000)
        assert max(rates["better"], rates["worse"]) <= find_largest_accidental_rate(0.025, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", NOISES)
def test_false_claims_over_many_comparisons(name: str, design: str) -> None:
    for n_seeds in (2, 3, 4, 5, 6, 7, 8, 10, 15, 20):
        rates = measure_rates(name, design, n_seeds, 50_000)
        assert max(rates["better"], rates["worse"]) <= find_largest_accidental_rate(0.028, 50_000)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", ["normal", "uniform", "Student t, 3", "lognormal", "two basins", "rounded to 1 SD"])
def test_false_equivalence_at_the_margin(name: str, design: str) -> None:
    for n_seeds in (3, 5, 10):
        for shift in (-2.0, 2.0):
            rate = measure_rates(name, design, n_seeds, 1000, shift, 2.0)["equivalent"]
            assert rate <= find_largest_accidental_rate(0.05, 1000)


@pytest.mark.parametrize(
    ("design", "n_seeds", "shift", "power"),
    [
        ("unpaired", 3, 2, 0.36),
        ("unpaired", 5, 1, 0.28),
        ("unpaired", 5, 2, 0.78),
        ("unpaired", 10, 1, 0.55),
        ("paired", 5, 2, 0.59),
        ("paired, half of the variance shared", 5, 2, 0.86),
    ],
)
def test_power_with_normal_noise(design: str, n_seeds: int, shift: float, power: float) -> None:
    rates = measure_rates("normal", design, n_seeds, 2000, -shift)
    assert rates["better"] == pytest.approx(power, abs=0.04)
    assert rates["worse"] < 0.005


def test_intervals_cover_the_difference_with_outliers_and_skew() -> None:
    for name in ("normal", "lognormal", "10% of seeds 10 SD worse"):
        baseline, candidate = draw_pair(NOISES[name], np.random.default_rng(0), (2000, 10), 0.0)
        found = compare_at_levels(baseline, candidate + 5, False)
        assert np.mean((found.low <= 5) & (found.high >= 5)) >= 0.93


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", ["normal", "two values", "30% diverge", "2% at 1e30", "constant"])
def test_many_comparisons_equal_single_ones(name: str, paired: bool) -> None:
    baseline, candidate = draw_pair(NOISES[name], np.random.default_rng(1), (20, 6), 0.0)
    found = compare_at_levels(baseline, candidate - 1, paired, 0.5)
    for row in range(20):
        one = compare_losses(baseline[row], candidate[row] - 1, paired=paired, margin=0.5)
        assert one.status == STATUSES[found.codes[row]]
        assert (one.low, one.high, one.p) == (found.low[row], found.high[row], pytest.approx(found.p[row]))


def test_repeat_runs_are_read_and_tabulated(tmp_path) -> None:
    losses = np.random.default_rng(0).normal(size=12).tolist()
    (tmp_path / "runs.json").write_text(str({"a": losses[:8], "b": losses[8:]}).replace("'", '"'))
    (tmp_path / "runs.csv").write_text("config,loss\n" + "\n".join(f"ab,{loss}" for loss in [*losses, "nan"]))
    (from_csv,) = read_repeats(tmp_path / "runs.csv").values()
    assert from_csv.tolist() == [*losses, np.inf]
    groups = read_repeats(tmp_path / "runs.json")
    lines = list(tabulate_repeats(groups, 100, np.random.default_rng(0)))
    assert lines[0] == "2 configurations, 12 runs; 100 draws a configuration"
    assert [line.split(" | ")[1] for line in lines if "unpaired, " in line] == ["2", "1", "1"]
