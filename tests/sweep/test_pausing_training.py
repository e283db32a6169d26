"""Sweeps over our own training that pause and continue trials: real runs of a tiny model."""

import json
import os
import signal
from pathlib import Path

import pytest
from optuna.trial import TrialState

from harness.run.runner import run
from harness.sweep.programs import make_trial_runner
from harness.sweep.programs.training.config_space import TRIAL_DEFAULTS
from harness.sweep.programs.training.runner import stop_when
from harness.sweep.study.budget import find_share_done
from harness.sweep.study.trial_attrs import (
    BASELINE,
    PROMOTIONS,
    RESULT,
    RETRIES,
    TARGET,
    is_cut_off,
    is_paused,
    trial_values,
)
from harness.sweep.workers.worker import run_trials
from tests.sweep.study.test_paused_trials import bury
from tests.sweep.test_sweeper import load_study, start_sweep, wait_for
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA, make_worker_spec, read_tiny_request, start_study, study_folder

STEPS = 50
PAUSING = [
    *(one for one in TINY_WITHOUT_LORA if one != "pruner=none" and not one.startswith("loop.max_steps")),
    f"loop.max_steps={STEPS}", "pruner=pausing", "sweep.n_jobs=1", "sweep.study=default",
]  # fmt: skip


def read_curve(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the metrics of a run by step, but for times."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [entry for entry in entries if entry["kind"] == "metrics"]
    return [
        (
            row["step"],
            {name: value for name, value in row["metrics"].items() if "time" not in name and "sec" not in name},
        )
        for row in rows
    ]


def list_steps(folder: Path, metric: str) -> list[int]:
    return [step for step, metrics in read_curve(folder) if metric in metrics]


def test_continued_trials_equal_runs_that_never_paused(places: list[str], tmp_path: Path) -> None:
    sweep = [*PAUSING, *places, "sweep.runs=4"]
    request, queue = read_tiny_request(*sweep), start_study(*sweep)
    run_trials(make_worker_spec(request), make_trial_runner, lambda: False)
    trials = queue.study.trials
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(completed) >= 2
    assert len(completed) + sum(map(is_paused, trials)) == len(trials)
    assert sum(map(find_share_done, trials)) <= 4 + 1e-9
    for trial in completed:
        assert BASELINE in trial.user_attrs or len(trial.user_attrs[PROMOTIONS]) == 3
        cfg = request.space.compose_config(trial_values(trial), ["observers=metrics_only"])
        cfg.device.threads = 1
        straight = run(cfg, folder=tmp_path / f"straight-{trial.number}", probes=request.spec.list_rungs())
        assert trial.value == straight.best_val_loss
        assert read_curve(request.folder / str(trial.number)) == read_curve(straight.folder)


def test_a_trial_whose_checkpoint_is_gone_starts_over(places: list[str]) -> None:
    sweep = [*PAUSING, *places]
    request, queue = read_tiny_request(*sweep, "sweep.runs=2.5"), start_study(*sweep, "sweep.runs=2.5")
    run_trials(make_worker_spec(request), make_trial_runner, lambda: False)
    before = {trial.number: dict(trial.intermediate_values) for trial in queue.study.trials if is_paused(trial)}
    for number in before:
        (request.folder / str(number) / "checkpoints").rename(request.folder / f"gone-{number}")
    queue = start_study(*sweep, "sweep.runs=8", f"sweep.n_trials={len(queue.study.trials)}")  # only these continue
    run_trials(make_worker_spec(request), make_trial_runner, lambda: False)
    trials = queue.study.trials
    grown = [number for number, values in before.items() if len(trials[number].intermediate_values) > len(values)]
    assert grown == list(before)
    for number in grown:
        assert trials[number].state != TrialState.FAIL
        assert {at: trials[number].intermediate_values[at] for at in before[number]} == before[number]
        steps = list_steps(request.folder / str(number), "val/loss")
        assert steps == sorted(set(steps))


@pytest.mark.parametrize("target", [4, 100])
def test_a_worker_that_dies_before_the_first_pause_loses_nothing(
    target: int, places: list[str], tmp_path: Path
) -> None:
    """The trial keeps its number and folder, and ends as one that was never interrupted."""
    sweep = [*PAUSING, *places, "sweep.runs=2"]
    request, queue = read_tiny_request(*sweep), start_study(*sweep)
    trial = next(trial for trial in iter(queue.claim_trial, None) if trial.user_attrs[TARGET] == target)
    cfg = request.space.compose_config(trial_values(trial), TRIAL_DEFAULTS)
    cfg.device.threads = 1
    rungs = request.spec.list_rungs()
    is_dead = stop_when(lambda: True)
    run(cfg, [lambda event: is_dead(event) if event.step else None], folder=request.folder / str(trial.number),
        probes=rungs)  # fmt: skip
    for running in queue.study.get_trials(states=(TrialState.RUNNING,)):
        bury(queue, running)
    queue.reap_dead_trials(is_leftover=False)
    left = queue.study.trials[trial.number]
    assert is_cut_off(left)
    assert (left.user_attrs[RETRIES], left.user_attrs[RESULT]["fraction_done"]) == (1, 0.04)
    run_trials(make_worker_spec(request), make_trial_runner, lambda: False)
    ended = queue.study.trials[trial.number]
    assert ended.state == TrialState.COMPLETE or (target < 100 and is_paused(ended))
    straight = run(cfg, folder=tmp_path / "straight", probes=rungs)
    recorded = read_curve(request.folder / str(trial.number))
    assert recorded == read_curve(straight.folder)[: len(recorded)]
    assert recorded[-1][0] >= target * STEPS // 100
    assert 4 in ended.intermediate_values


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_ends_as_one(places: list[str], tmp_path: Path) -> None:
    command = [*PAUSING, *places, "sweep.runs=4"]
    folder = study_folder(tmp_path)

    def count_reports() -> int:
        try:
            study = load_study(folder)
        except (KeyError, FileNotFoundError):  # not created yet
            return 0
        return sum(len(trial.intermediate_values) for trial in study.trials)

    for n_reports in (3, 9, 14, 19, 25):
        sweep = start_sweep(*command, log=tmp_path / "log.txt")
        wait_for(lambda n=n_reports: count_reports() >= n, 90)
        os.kill(sweep.pid, signal.SIGKILL)
        sweep.wait()
    assert start_sweep(*command, log=tmp_path / "log.txt").wait(120) == 0
    trials = load_study(folder).trials
    assert not any(trial.state == TrialState.RUNNING for trial in trials)
    assert sum(find_share_done(trial) for trial in trials) <= 4 + 1e-9
    for trial in trials:
        if trial.state == TrialState.FAIL:
            continue  # killed before its first checkpoint, and run again under another number
        for metric in ("val/loss", "train/loss"):
            steps = list_steps(folder / str(trial.number), metric)
            assert steps == sorted(set(steps))
