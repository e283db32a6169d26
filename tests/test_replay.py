"""The replay of sweeps on recorded learning curves, on two synthetic landscapes."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import replay
from benchmarks.landscapes import Landscape, Ledger, load_landscapes
from benchmarks.replay import ReplayedSweep, format_table, summarize_sweeps
from benchmarks.replay_arms import ARMS


def write_landscape(path: Path, n_configs: int, *, is_flat: bool) -> None:
    """Write curves that fall to a bowl, or nearly to the same loss everywhere."""
    rng = np.random.default_rng(0)
    points, shares = rng.random((n_configs, 2)), np.linspace(0.04, 1.0, 25)
    bottom = 0.001 * rng.random(n_configs) if is_flat else ((points - [0.3, 0.6]) ** 2).sum(1)
    noise = (0.01 if is_flat else 1e-5) * rng.standard_normal((n_configs, len(shares)))
    curves = bottom[:, None] + np.exp(-5 * shares) + noise
    columns = np.array(["lr", "momentum"])
    np.savez(path, x=points, curves=curves, shares=shares, cost=np.ones(n_configs), columns=columns)


@pytest.fixture
def folder(tmp_path) -> Path:
    write_landscape(tmp_path / "toy_bowl.npz", 150, is_flat=False)
    write_landscape(tmp_path / "toy_flat.npz", 120, is_flat=True)
    return tmp_path


def run_replay(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["replay", *arguments])
    monkeypatch.setattr(replay, "MIN_TARGET_SEEDS", 2)
    return replay.main()


def test_sweeps_are_replayed_and_summarized(folder, tmp_path, monkeypatch, capsys) -> None:
    arms = ["random", "halving-4-16-64", "ours"]
    out = tmp_path / "found.json"
    assert run_replay(monkeypatch, str(folder), "--seeds", "2", "--json", str(out), "--arms", *arms) == 0
    sweeps = [ReplayedSweep(**one) for one in json.loads(out.read_text())["sweeps"]]
    assert [(sweep.landscape, sweep.arm, sweep.seed) for sweep in sweeps] == [
        (name, arm, seed) for name in ("toy_bowl", "toy_flat") for arm in arms for seed in (0, 1)
    ]
    assert {sweep.landscape for sweep in sweeps if sweep.is_flat} == {"toy_flat"}
    assert all(sweep.ratio < 0.5 for sweep in sweeps if sweep.arm == "ours" and not sweep.is_flat)
    table = capsys.readouterr().out
    assert "| not flat, held out | ours | 2 |" in table
    assert "an evaluation costs 0.5% of a run" in table


def test_a_folder_without_landscapes_is_an_error(tmp_path, monkeypatch, capsys) -> None:
    assert run_replay(monkeypatch, str(tmp_path / "missing")) == 2
    assert "missing: no landscapes" in capsys.readouterr().err


def test_every_share_is_charged_once(folder) -> None:
    landscape = next(load_landscapes(folder, "bowl"))
    ledger = Ledger(landscape, evaluation_cost=0.01, n_evaluations=5)
    early = ledger.train(7, 0.04)
    assert ledger.spent == pytest.approx(0.04 + 0.01)
    assert ledger.train(7, 0.04) == early
    assert ledger.train(7, 0.2) < early
    assert ledger.spent == pytest.approx(0.2 + 0.02)
    ledger.train(7, 1.0)
    assert ledger.spent == pytest.approx(1.0 + 0.06)
    assert ledger.spent_until(early) == pytest.approx(0.05)
    assert ledger.spent_until(-1.0) == math.inf


def test_our_arm_stays_in_its_budget_and_pauses(folder) -> None:
    ledger = Ledger(next(load_landscapes(folder, "bowl")), evaluation_cost=0.0, n_evaluations=10)
    ARMS["ours"](ledger, 0, lambda ledger: False)
    assert 12 < ledger.spent <= 24
    shares = np.array([ledger.landscape.shares[index] for index in ledger.reached.values()])
    assert np.mean(shares < 0.05) > 0.4
    assert 4 <= sum(shares == 1.0) < 24


def test_proposals_become_recorded_configurations() -> None:
    points = np.array([[0.1, 0.0], [0.2, 1.0], [0.9, 0.5], *np.random.default_rng(0).random((17, 2))])
    curves = np.repeat(points[:, :1], 4, axis=1)
    landscape = Landscape("toy", ("lr", "momentum"), points, curves, np.linspace(0.25, 1, 4), np.ones(20))
    assert landscape.column_weights[0] > landscape.column_weights[1]
    nearest = landscape.find_nearest(np.array([0.21, 0.2]), set())
    assert abs(points[nearest, 0] - 0.21) < 0.2
    assert landscape.find_nearest(points[2], {2}) != 2


def test_statistics_count_sweeps_that_never_reach_the_target() -> None:
    ratios = [0.1, 0.3, None, 0.2, None, 0.5, 0.6, 0.7]
    sweeps = [
        ReplayedSweep(f"toy_{index // 4}", "toy", False, False, "ours", index % 4, ratio, 10, 0.0)
        for index, ratio in enumerate(ratios)
    ]
    found = summarize_sweeps(sweeps)
    assert (found.n_landscapes, found.n_sweeps, found.good_share, found.never_share) == (2, 8, 0.25, 0.25)
    assert found.quartiles == (0.2, 0.5, 0.7)
    assert found.interval[0] <= found.quartiles[1] <= found.interval[1]
    assert any("| toy (2) | ours | 8 | 0.50 |" in row for row in format_table(sweeps))
