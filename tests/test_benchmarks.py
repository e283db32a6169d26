"""Benchmarks of sweeps, pruners and rescues on hand-made records and curves, and at toy size."""

import gzip
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from optuna.pruners import MedianPruner, NopPruner

from benchmarks import rescue
from benchmarks.planted_faults import TruncatedWarmup, shift_targets
from benchmarks.pruners import load_pruner_options, replay_pruner
from benchmarks.rescue_results import ARMS, compare_two_arms, draw_picture, format_tables, read_losses_by_arm
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
from harness.core.state import Progress
from harness.data.tokens import IGNORE_INDEX, TokenBatch
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


def make_results(means: dict[str, float], diverged: tuple[str, ...] = ()) -> dict:
    """Return results of a rescued system with five seeds, whose losses differ by hundredths."""
    runs = {
        f"{arm} {seed}": {
            "test_loss": None if arm in diverged and seed == 3 else mean + ((seed + len(arm)) % 5 + 1) / 100
        }
        for arm, mean in means.items()
        for seed in range(1, 6)
    }
    ending = {"result": "better", "sentence": "better config shown", "command": "python run.py optimizer.lr=0.01"}
    rescued = {
        "ending": ending, "values": {"optimizer.lr": 0.01}, "diagnoses": [{"kind": "learning rate too low"}],
        "ranges": [], "source": "sweeps=toy", "sweep": {"n_measured": 20, "tokens": 900},
    }  # fmt: skip
    fault = {"ending": {"result": "fault", "sentence": "nothing was searched: warm-up: 0 steps; expected 8 steps"}}
    return {"title": "Toy", "unit": "nats/token", "rescue": rescued, "fault": fault, **runs}


def test_rescue_tables_compare_arms_by_seed() -> None:
    results = make_results({"before": 5.0, "after": 4.0, "ours": 3.0, "random": 3.0}, diverged=("random",))
    assert read_losses_by_arm(results)["ours"] == pytest.approx([3.01, 3.02, 3.03, 3.04, 3.05])
    found = compare_two_arms(results, "ours", "after")
    assert (found.status, found.difference) == ("better", pytest.approx(-1.0))
    tables = "\n".join(format_tables([results]))
    assert "| Toy | nats/token | 5.0300 [5.0104, 5.0496] | 4.0300" in tables  # scipy: t of 4 degrees of freedom
    assert "3.0250 [3.0045, 3.0455], 1 diverged" in tables
    assert "| Toy | fault: warm-up: 0 steps | learning rate too low |" in tables
    assert "better 1, no difference shown 0, worse 0. Stopped at the planted bug: 1 of 1." in tables
    assert compare_two_arms(make_results({"before": 5.0, "ours": 3.0}), "ours", "after") is None


def test_rescue_picture_is_small(tmp_path: Path) -> None:
    results = make_results(dict.fromkeys(ARMS, 1.0))
    draw_picture([results] * 5, tmp_path / "rescue.png")
    assert 10_000 < (tmp_path / "rescue.png").stat().st_size < 200_000


def test_planted_faults() -> None:
    schedule = TruncatedWarmup(warmup_ratio=0.1)
    assert schedule.count_warmup_steps(1000) == 0
    assert schedule.lr_multiplier(Progress(0, 0, 1000)) == 1.0
    tokens = torch.arange(10).view(2, 5)
    batch = TokenBatch(tokens[:, :-1], tokens[:, 1:], lengths=[4, 4], scored_per_row=[4, 4])
    shifted = shift_targets(batch)
    assert shifted.targets.tolist() == [[2, 3, 4, IGNORE_INDEX], [7, 8, 9, IGNORE_INDEX]]
    assert shifted.n_scored == 6


def test_corrupt_answers_keep_the_questions(tmp_path: Path) -> None:
    path = tmp_path / "qa.md.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n\n".join(f"QUESTION: What is {n}?\n\nANSWER: It is {n}." for n in range(300)))
    text = rescue.corrupt_answers(path)
    assert all(f"QUESTION: What is {n}?\n\nANSWER: " in text for n in range(300))
    assert [n for n in range(300) if f"ANSWER: It is {n}." not in text] == list(rescue.CORRUPT_ANSWERS)


@pytest.mark.slow
def test_rescue_of_a_toy_system(tmp_path: Path, monkeypatch) -> None:
    data, to = tmp_path / "data", tmp_path / "results"
    data.mkdir()
    with gzip.open(data / "gutenberg_children.txt.gz", "wt") as file:
        file.writelines(
            f"The {n % 7} of {n} saw the {n % 11} and went to the {n % 13} by {n * n}.\n" for n in range(2000)
        )
    monkeypatch.setattr(rescue, "SEEDS", (1, 2, 3))
    monkeypatch.setattr(rescue, "BUDGET_RUNS", 3)
    tiny = [
        "model.width=16",
        "model.layers=1",
        "model.hidden=16",
        "tokenizer.vocab_size=200",
        "data.sequence_length=32",
    ]
    tiny += ["data.val_fraction=0.05", "data.test_share=0.05", "loop.max_tokens=9216", "loop.evals=4"]
    system = next(system for system in rescue.SYSTEMS if system.name == "ltg_bert")
    record = rescue.measure_system(system, data, to, tiny)
    assert record.results["fault"]["ending"]["result"] == "fault"
    assert "warm-up" in record.results["fault"]["ending"]["sentence"]
    assert record.results["rescue"]["ending"]["result"] in ("better", "not shown")
    assert all(len(losses) == 3 for losses in read_losses_by_arm(record.results).values())
    monkeypatch.setattr(rescue, "run_logged", SimpleNamespace())  # nothing runs again
    assert rescue.measure_system(system, data, to, tiny).results == record.results
