"""What the benchmark of sweeps makes of records and curves, checked by hand."""

import math

import pytest
from optuna.pruners import MedianPruner, NopPruner

from benchmarks.sweep import (
    RecordedTrial,
    TrajectoryPoint,
    best_loss_within,
    build_trajectory,
    compare_arms,
    first_reaching,
    load_pruner_options,
    read_trials,
    replay_pruner,
)
from harness.observers.metrics_writer import MetricsWriter
from tests.observers.sample_events import sample_run, send_events


def ran(status: str, *losses: float) -> RecordedTrial:
    """100 tokens and 1 s to each evaluation after the first, which is before training."""
    evaluations = tuple((100 * at, float(at), min(losses[: at + 1])) for at in range(len(losses)))
    return RecordedTrial(0.0, 0.0, status, 100 * (len(losses) - 1), float(len(losses) - 1), evaluations)


def test_a_trajectory_adds_up_the_cost_of_all_trials_and_the_finds_of_the_completed() -> None:
    points = build_trajectory([ran("completed", 5, 4), ran("pruned", 5, 2), ran("completed", 5, 3, 1)])
    assert points[-1] == TrajectoryPoint(400, 4.0, 1)
    assert first_reaching(points, 3) == TrajectoryPoint(300, 3.0, 3)
    assert first_reaching(points, 0.5).tokens == math.inf
    assert (best_loss_within(points, 250), best_loss_within(points, 300)) == (4, 3)


def test_the_share_of_the_stock_sweepers_tokens_is_that_until_its_best() -> None:
    stock = build_trajectory(
        [ran("completed", 5, 4), ran("completed", 5, 3), ran("completed", 5, 4), ran("completed", 5, 4)]
    )
    ours = build_trajectory([ran("completed", 5, 2), ran("pruned", 5, 5)])
    found = compare_arms({"ours": ours, "stock": stock}, loss=2.5)
    assert (found["ours"]["of_all"], found["ours"]["of_way"]) == (0.25, 0.5)
    assert (found["stock"]["of_all"], found["stock"]["best_at_equal_tokens"]) == (0.5, 3)
    assert (found["ours"]["tokens_to_loss"], found["stock"]["tokens_to_loss"]) == (100, math.inf)


def test_a_sweeps_trials_are_read_from_their_records_in_the_order_in_which_they_ran(tmp_path) -> None:
    for name in ("1", "0"):
        send_events([MetricsWriter()], sample_run(tmp_path / name, 20))
    first, second = read_trials(tmp_path)
    assert first.started_at <= second.started_at
    assert first.status == "completed"
    assert len(first.evaluations) == 3
    assert first.evaluations[-1][0] <= first.tokens


def test_a_replay_spends_what_the_pruner_lets_run_and_regrets_the_best_it_cut() -> None:
    quick = ({0: 5.0, 50: 3.0, 100: 2.9}, 1000)
    late = ({0: 5.0, 50: 4.0, 100: 1.0}, 1000)
    curves = [quick, quick, late, quick]
    whole = replay_pruner(curves, NopPruner(), 0.0, "replay")
    assert (whole.token_share, whole.regret, whole.has_pruned_best) == (1.0, 0.0, False)
    cut = replay_pruner(curves, MedianPruner(n_startup_trials=2), 0.0, "replay")
    assert cut.token_share == 3.5 / 4
    assert cut.regret == pytest.approx(1.9)
    assert cut.has_pruned_best
    assert (
        replay_pruner(curves, MedianPruner(n_startup_trials=2), 0.6, "replay") == whole
    )  # nothing is cut in the warm-up


def test_a_pruner_is_told_as_it_is_shipped_and_with_changes() -> None:
    shipped, changed = load_pruner_options("median"), load_pruner_options("median:n_startup_trials=3")
    assert changed == {**shipped, "n_startup_trials": 3}
