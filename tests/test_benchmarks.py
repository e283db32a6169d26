"""Benchmarks of sweeps, pruners and rescues on hand-made records and curves, and at toy size."""

import gzip
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from optuna.pruners import MedianPruner, NopPruner

from benchmarks import rescue, sweep
from benchmarks.planted_faults import TruncatedWarmup, shift_targets
from benchmarks.pruners import load_pruner_options, replay_pruner
from benchmarks.rescue_results import ARMS, compare_two_arms, draw_picture, format_tables, read_losses_by_arm
from benchmarks.sweep import SweepTask, measure_sweep
from benchmarks.sweep_overhead import time_commands, time_trials
from benchmarks.sweep_results import compute_shares, format_cost_table
from benchmarks.sweep_runs import RecordedTrial, TrajectoryPoint, build_trajectory, first_reaching, read_trials
from harness.core.digests import read_json
from harness.core.state import Progress
from harness.data.tokens import IGNORE_INDEX, TokenBatch
from harness.observers.metrics_writer import MetricsWriter
from harness.record.metrics_file import write_json
from tests.observers.sample_events import sample_run, send_events


def make_trial(loss: float, *progress: tuple[float, int]) -> RecordedTrial:
    """Return a trial with its tokens at points in time; one with a finite loss completed."""
    status = "completed" if math.isfinite(loss) else "paused"
    return RecordedTrial(Path(), progress[0][0], progress[-1][0], status, 0.0, progress, loss)


def test_trajectory_counts_all_costs_and_completed_losses() -> None:
    trials = [
        make_trial(4.0, (10, 0), (11, 40), (20, 40), (22, 100)),  # paused from 11 to 20
        make_trial(math.inf, (12, 0), (13, 40), (23, 40), (24, 50)),
        make_trial(5.0, (14, 0), (16, 100)),
    ]
    points = build_trajectory(trials)
    assert points == [TrajectoryPoint(180, 6, 5.0), TrajectoryPoint(240, 12, 4.0), TrajectoryPoint(250, 14, 4.0)]
    assert first_reaching(points, 5.0) == points[0]
    assert first_reaching(points, 3.9).tokens == math.inf


def make_sweep_result(arm: str, seed: int, *points: tuple[int, float]) -> dict:
    return {
        "task": "toy", "arm": arm, "seed": seed, "command_seconds": 9.0, "trials": {"completed": 2, "paused": 3},
        "points": [{"tokens": tokens, "seconds": tokens / 10, "best_loss": loss} for tokens, loss in points],
        "fresh": {"9001": points[-1][1] + 0.1},
    }  # fmt: skip


def test_cost_until_the_median_best_of_the_stock() -> None:
    stock = [make_sweep_result("stock", seed, (50, 5), (100, 2 + seed)) for seed in (1, 2, 3)]
    ours = [make_sweep_result("ours", 1, (10, 4.0), (30, 3.0)), make_sweep_result("ours", 2, (30, 4.5))]
    assert compute_shares(ours, stock, target=4.0) == ([0.1, math.inf], [0.1, math.inf])
    table = list(format_cost_table([*stock, *ours]))
    assert table[-2].startswith("| toy, to 4.0000 | stock | 3 | 1.00 (1.00 to never) | 33% |")
    assert table[-1].startswith("| toy, to 4.0000 | ours | 2 | never (0.10 to never) | 50% |")
    assert "| 5 (5 to 5) |" in table[-1]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["stock", "ours"])
def test_a_sweep_is_measured(tmp_path: Path, monkeypatch, arm: str) -> None:
    monkeypatch.setattr(sweep, "N_STOCK_TRIALS", 3)
    settings = [*sweep.SMALL_GPT, "model.width=16", "loop.max_steps=25"]
    task = SweepTask("toy", settings, ["sweeps=none", "optimizer.lr=log(1e-3,1e-2)"], "optimizer.lr=1e-3")
    found = measure_sweep(task, arm, 1, tmp_path / "sweep")
    assert found["points"][-1]["tokens"] >= 3 * 25 * 8 * 32
    write_json(tmp_path / "sweep" / sweep.RESULT_FILE, found)
    sweep.measure_winner(tmp_path / "sweep")
    assert len(read_json(tmp_path / "sweep" / sweep.RESULT_FILE)["fresh"]) == len(sweep.FRESH_SEEDS)
    assert found["trials"]["completed"] >= 1


def test_read_trials_in_order_of_start(tmp_path) -> None:
    for name in ("1", "0"):
        send_events([MetricsWriter()], sample_run(tmp_path / name, 20))
    first, second = read_trials(tmp_path)
    assert first.started_at <= second.started_at
    assert first.status == "completed"
    assert math.isfinite(first.loss)
    assert first.tokens == first.progress[-1][1] > 0


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
