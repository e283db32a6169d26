"""Benchmarks of sweeps and pruners on hand-made records and curves."""

import math

import pytest
from optuna.pruners import MedianPruner, NopPruner

from benchmarks.pruners import load_pruner_options, replay_pruner
from benchmarks.sweep import (
    RecordedTrial,
    TrajectoryPoint,
    best_loss_within,
    build_trajectory,
    compare_arms,
    first_reaching,
    read_trials,
)
from benchmarks.sweep_overhead import time_commands, time_trials
from harness.observers.metrics_writer import MetricsWriter
from tests.observers.sample_events import sample_run, send_events


def make_trial(status: str, *losses: float) -> RecordedTrial:
    """Return a trial with 100 tokens and 1 s before each evaluation but the first."""
    evaluations = tuple((100 * at, float(at), min(losses[: at + 1])) for at in range(len(losses)))
    return RecordedTrial(0.0, 0.0, status, 100 * (len(losses) - 1), float(len(losses) - 1), evaluations)


def test_trajectory_counts_all_costs_and_completed_losses() -> None:
    points = build_trajectory(
        [make_trial("completed", 5, 4), make_trial("pruned", 5, 2), make_trial("completed", 5, 3, 1)]
    )
    assert points[-1] == TrajectoryPoint(400, 4.0, 1)
    assert first_reaching(points, 3) == TrajectoryPoint(300, 3.0, 3)
    assert first_reaching(points, 0.5).tokens == math.inf
    assert (best_loss_within(points, 250), best_loss_within(points, 300)) == (4, 3)


def test_compare_arms() -> None:
    stock = build_trajectory(
        [
            make_trial("completed", 5, 4),
            make_trial("completed", 5, 3),
            make_trial("completed", 5, 4),
            make_trial("completed", 5, 4),
        ]
    )
    ours = build_trajectory([make_trial("completed", 5, 2), make_trial("pruned", 5, 5)])
    found = compare_arms({"ours": ours, "stock": stock}, loss=2.5)
    assert (found["ours"]["share_of_total"], found["ours"]["share_until_best"]) == (0.25, 0.5)
    assert (found["stock"]["share_of_total"], found["stock"]["best_at_equal_tokens"]) == (0.5, 3)
    assert (found["ours"]["tokens_to_loss"], found["stock"]["tokens_to_loss"]) == (100, math.inf)


def test_read_trials_in_order_of_start(tmp_path) -> None:
    for name in ("1", "0"):
        send_events([MetricsWriter()], sample_run(tmp_path / name, 20))
    first, second = read_trials(tmp_path)
    assert first.started_at <= second.started_at
    assert first.status == "completed"
    assert len(first.evaluations) == 3
    assert first.evaluations[-1][0] <= first.tokens


def test_replay_pruner() -> None:
    quick = ({0: 5.0, 50: 3.0, 100: 2.9}, 1000)
    late = ({0: 5.0, 50: 4.0, 100: 1.0}, 1000)
    curves = [quick, quick, late, quick]
    whole = replay_pruner(curves, NopPruner(), 0.0, "replay")
    assert (whole.token_share, whole.regret, whole.has_pruned_best) == (1.0, 0.0, False)
    cut = replay_pruner(curves, MedianPruner(n_startup_trials=2), 0.0, "replay")
    assert cut.token_share == 3.5 / 4
    assert cut.regret == pytest.approx(1.9)
    assert cut.has_pruned_best
    in_warmup = replay_pruner(curves, MedianPruner(n_startup_trials=2), 0.6, "replay")
    assert in_warmup == whole


def test_load_pruner_options() -> None:
    shipped, changed = load_pruner_options("median"), load_pruner_options("median:n_startup_trials=3")
    assert changed == {**shipped, "n_startup_trials": 3}


@pytest.mark.slow
def test_overhead_of_sweeps_is_measured(tmp_path) -> None:
    for sweeper in ("optuna", "harness"):
        (tmp_path / sweeper).mkdir()
        assert [len(part) for part in time_trials(sweeper, 3, tmp_path / sweeper)] == [2, 2]
    (tmp_path / "command").mkdir()
    assert [len(part) for part in time_commands(3, tmp_path / "command")] == [2, 3]
