"""Confirmations as pure functions of the losses: looks, verdicts, failures, and false claims under the null."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import ConfigError
from harness.evidence.confirm.plan import (
    ConfirmedConfig,
    ConfirmPlan,
    check_enough_seeds,
    choose_looks,
    choose_seeds,
    evaluate_runs,
)
from harness.sweep.seed_study import SeedRun

DrawLoss = Callable[[str, int], float | None]


def make_plan(n_candidates: int = 1, n_seeds: int = 5, **changes: object) -> ConfirmPlan:
    settings = {
        "baseline": ConfirmedConfig("baseline", {}),
        "candidates": tuple(ConfirmedConfig(f"trial {n + 1}", {"lr": n}) for n in range(n_candidates)),
        "seeds": choose_seeds(n_seeds, [1337], {}),
        "looks": choose_looks(n_seeds, n_candidates),
        "margin": None,
        "metric": "loss",
        "split": "test",
        "objective": "loss",
        "direction": "minimize",
        "n_measured": 24,
    }
    return ConfirmPlan(**{**settings, **changes})  # type: ignore[arg-type]


def make_run(config: str, seed: int, loss: float | None, status: str = "completed") -> SeedRun:
    if loss is not None and not math.isfinite(loss):
        status, loss = "diverged", None
    values = {} if loss is None else {"loss": loss}
    return SeedRun(config, seed, 0, status, "out of memory", values, 100, 1.0, Path())


def run_plan(plan: ConfirmPlan, draw: DrawLoss) -> tuple[list[SeedRun], int]:
    """Run what the plan asks for until it asks for nothing more; return the runs and the number of rounds."""
    runs: list[SeedRun] = []
    for n_rounds in range(10):
        evaluation = evaluate_runs(plan, runs)
        if not evaluation.next_runs:
            return runs, n_rounds
        for config, seed in evaluation.next_runs:
            loss = draw(config, seed)
            runs.append(make_run(config, seed, loss, "completed" if loss is not None else "failed"))
    raise AssertionError("the plan never ends")


def draw_with_effect(effect: float, seed: int = 0) -> DrawLoss:
    rng = np.random.default_rng(seed)
    return lambda config, _: float(rng.normal(3 + (0 if config == "baseline" else effect), 0.01))


def test_seeds_are_new() -> None:
    plan = {"configurations": "baseline {}, trial 1 {}"}
    seeds = choose_seeds(3, [], plan)
    assert seeds == choose_seeds(3, [], plan)  # so that the same command resumes
    assert min(seeds) > 1000
    assert set(seeds).isdisjoint(choose_seeds(3, [seeds[1]], plan))
    for other in (choose_seeds(5, [], plan), choose_seeds(3, [], {**plan, "margin": "0.1"})):
        assert set(seeds).isdisjoint(other)


@pytest.mark.parametrize(("n_candidates", "fewest"), [(1, 3), (2, 4), (6, 4), (7, 5)])
def test_seeds_that_can_show_nothing_are_refused(n_candidates: int, fewest: int) -> None:
    check_enough_seeds(fewest, n_candidates)
    for n_seeds, statuses in ((fewest, {"better"}), (fewest - 1, {"not shown"})):
        plan = make_plan(n_candidates, n_seeds)
        runs, _ = run_plan(plan, draw_with_effect(-1.0))
        assert {one.status for one in evaluate_runs(plan, runs).verdicts.values()} == statuses
    with pytest.raises(ConfigError, match=f"{fewest - 1} seeds can show nothing .*--seeds {fewest}"):
        check_enough_seeds(fewest - 1, n_candidates)


@pytest.mark.parametrize("n_seeds", range(3, 13))
@pytest.mark.parametrize("n_candidates", [1, 2, 3, 5])
def test_every_plan_of_five_seeds_can_show_a_large_difference(n_seeds: int, n_candidates: int) -> None:
    """A plan whose last look could show nothing would waste its runs."""
    plan = make_plan(n_candidates, n_seeds)
    assert plan.looks[-1] == n_seeds
    runs, _ = run_plan(plan, draw_with_effect(-1.0))
    found = evaluate_runs(plan, runs).verdicts
    if n_seeds >= 5:
        assert {verdict.status for verdict in found.values()} == {"better"}


def test_a_large_difference_is_decided_early() -> None:
    plan = make_plan(1, 10)
    runs, n_rounds = run_plan(plan, draw_with_effect(-1.0))
    assert len(runs) < 20
    assert evaluate_runs(plan, runs).verdicts["trial 1"].status == "better"
    assert n_rounds < len(plan.looks) or len(plan.looks) == 1


def test_decided_candidates_get_no_more_seeds() -> None:
    plan = make_plan(2, 12)
    rng = np.random.default_rng(1)
    effects = {"baseline": 0.0, "trial 1": -1.0, "trial 2": 0.0}
    runs, _ = run_plan(plan, lambda config, _: float(rng.normal(3 + effects[config], 0.01)))
    count = {name: sum(run.config == name for run in runs) for name in effects}
    assert count["trial 1"] < count["trial 2"] == count["baseline"] == 12


def test_maximized_metrics_keep_their_sign() -> None:
    plan = make_plan(1, 5, direction="maximize")
    runs, _ = run_plan(plan, draw_with_effect(0.5))
    verdict = evaluate_runs(plan, runs).verdicts["trial 1"]
    assert verdict.status == "better"
    assert 0.4 < verdict.low < verdict.difference < verdict.high < 0.6
    assert verdict.comparison is not None
    assert verdict.comparison.candidate_mean == pytest.approx(3.5, abs=0.05)


def test_runs_without_result_are_no_losses() -> None:
    plan = make_plan(2, 5)
    draw = draw_with_effect(-1.0)
    runs, _ = run_plan(plan, lambda config, seed: None if config == "trial 1" else draw(config, seed))
    found = evaluate_runs(plan, runs).verdicts
    assert found["trial 1"].status == "not shown"
    assert "out of memory" in found["trial 1"].reason
    assert found["trial 2"].status == "better"
    failing = [make_run("baseline", plan.seeds[0], None, "failed")]
    others = [make_run(name, seed, 3.0) for name in ("trial 1", "trial 2") for seed in plan.seeds]
    failing += [make_run("baseline", seed, 3.0) for seed in plan.seeds[1:]]
    assert evaluate_runs(plan, [*failing, *others]).failure.startswith("baseline: 1 of 4 runs failed")


def test_a_diverged_seed_counts_as_worst() -> None:
    plan = make_plan(1, 5)
    runs, _ = run_plan(plan, lambda config, seed: math.nan if config != "baseline" and seed % 2 else 3 + seed / 1e4)
    verdict = evaluate_runs(plan, runs).verdicts["trial 1"]
    assert verdict.status in ("not shown", "worse")
    assert verdict.comparison is not None
    assert verdict.comparison.diverged_candidate >= 2


NOISES: dict[str, Callable[[np.random.Generator], float]] = {
    "normal": lambda rng: rng.normal(),
    "heavy tails": lambda rng: rng.standard_t(2),
    "two narrow basins": lambda rng: rng.integers(2) + 0.001 * rng.normal(),
    "outliers": lambda rng: rng.normal() + 10 * (rng.random() < 0.1),
}


def find_false_claims(n_confirmations: int, n_candidates: int, n_seeds: int, noise: str, shared: float) -> float:
    """Return the share of confirmations under the null in which any candidate is called better.

    `shared` is the share of the variance that a seed gives to all configurations.
    """
    rng = np.random.default_rng([n_candidates, n_seeds])
    plan, count, draw = make_plan(n_candidates, n_seeds), 0, NOISES[noise]
    for _ in range(n_confirmations):
        common = {seed: draw(rng) for seed in plan.seeds}
        runs, _ = run_plan(
            plan, lambda _, seed, common=common: float(shared**0.5 * common[seed] + (1 - shared) ** 0.5 * draw(rng))
        )
        count += any(verdict.status == "better" for verdict in evaluate_runs(plan, runs).verdicts.values())
    return count / n_confirmations


@pytest.mark.parametrize(("n_candidates", "n_seeds"), [(1, 5), (3, 5)])
def test_few_false_claims_under_the_null(n_candidates: int, n_seeds: int) -> None:
    assert find_false_claims(300, n_candidates, n_seeds, "normal", 0.9) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0, 0.5, 0.9])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("n_candidates", "n_seeds"), [(1, 3), (1, 5), (3, 5), (1, 10), (3, 10), (5, 7)])
def test_few_false_claims_in_two_thousand_confirmations(
    n_candidates: int, n_seeds: int, noise: str, shared: float
) -> None:
    assert find_false_claims(2000, n_candidates, n_seeds, noise, shared) <= 0.04


def test_a_shared_seed_effect_does_not_hide_a_small_difference() -> None:
    """The measured case: seeds move the losses by 0.01, alike on both sides, and the candidate is 0.001 lower."""
    plan = make_plan(3, 5)
    base = dict(zip(plan.seeds, [7.418, 7.400, 7.381, 7.406, 7.385], strict=True))
    rng = np.random.default_rng(0)
    gains = {"trial 1": 0.001}
    runs, _ = run_plan(plan, lambda config, seed: base[seed] - gains.get(config, 0.0) + rng.normal(0, 1e-4))
    found = evaluate_runs(plan, runs).verdicts
    assert [verdict.status for verdict in found.values()] == ["better", "not shown", "not shown"]
