"""`python run.py -m` as a user meets it: recorded, resumed, killed, refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf
from optuna.trial import TrialState

from harness.config import compose
from harness.runner import run
from harness.sweeping.storage import open_storage
from tests.conftest import ROOT, run_py
from tests.sweeps import TINY, asked, folder_of, post

NO_MLFLOW = "~observers.mlflow"


def study_in(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=folder.name, storage=open_storage(None, folder))


def start(*overrides: str, log: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "-m", *overrides],
        stdout=log.open("ab"),
        stderr=subprocess.STDOUT,
        process_group=0,
    )


def workers_of(process: subprocess.Popen) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "harness.sweeping.worker"], capture_output=True)
    return [int(number) for number in listed.stdout.split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def test_a_sweep_is_recorded_in_its_folder_and_in_mlflow_with_its_trials_nested(places, tmp_path) -> None:
    done = run_py("-m", *TINY, *places, "sweep.n_trials=6", "sweep.keep=2", "sweep.n_jobs=2")
    assert done.returncode == 0, done.stderr
    folder = folder_of(tmp_path)
    study = study_in(folder)
    assert [trial.number for trial in study.trials] == list(range(6))
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    best = study.best_trial
    found = OmegaConf.load(folder / "optimization_results.yaml")
    assert (found.name, found.best_trial) == ("optuna", best.number)
    assert found.best_value == best.value
    assert dict(found.best_params) == best.params
    assert f"trial {best.number}" in done.stdout
    assert f"optimizer.lr={best.params['optimizer.lr']}" in done.stdout
    kept = [trial.number for trial in study.trials if (folder / str(trial.number) / "checkpoints").exists()]
    assert len(kept) == 2
    assert best.number in kept

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [one for one in client.search_experiments() if one.name == "default"]
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    trials = {one.info.run_name: one for one in runs if one is not parent}
    assert sorted(trials) == [str(number) for number in range(6)]
    assert {one.data.tags["mlflow.parentRunId"] for one in trials.values()} == {parent.info.run_id}
    assert parent.info.run_name == "default"
    assert parent.data.tags["best_trial"] == str(best.number)
    assert parent.data.tags["best_run_id"] == trials[str(best.number)].info.run_id
    assert parent.data.metrics["sweep/best_val_loss"] == best.value
    for trial in study.trials:
        recorded = trials[str(trial.number)].data
        assert float(recorded.params["optimizer.lr"]) == trial.params["optimizer.lr"]
        assert recorded.params["effective.threads"] == "1"
    assert trials[str(best.number)].data.metrics["val/best_loss"] == pytest.approx(best.value)


def test_a_trial_of_a_warm_worker_has_the_bits_of_a_run_of_its_own(places, tmp_path) -> None:
    done = run_py("-m", *TINY, *places, "sweep.n_trials=4", "pruner=none", "sweep.n_jobs=1", NO_MLFLOW)
    assert done.returncode == 0, done.stderr
    last = study_in(folder_of(tmp_path)).trials[3]
    threads = last.user_attrs["result"]["threads"]
    chosen = [f"{key}={value}" for key, value in last.params.items()]
    alone = run(compose([*TINY, *places, "observers=quiet", f"device.threads={threads}", *chosen]))
    assert alone.best_val_loss == last.value


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_no_finished_trial_and_leave_none_running(kills, places, tmp_path) -> None:
    n_trials = 6 * kills
    command = [*TINY, *places, NO_MLFLOW, f"sweep.n_trials={n_trials}", "sweep.n_jobs=2", "loop.max_steps=40",
               "sweep.max_failures=null", "hydra/sweeper/sampler=random", "pruner=none"]  # fmt: skip
    folder, log, chance = folder_of(tmp_path), tmp_path / "log.txt", random.Random(kills)
    finished: dict[int, tuple] = {}
    for kill in range(kills):
        sweep = start(*command, log=log)
        before = len(finished)
        wait_for(lambda before=before: len(ended(folder)) > before, 120)
        time.sleep(chance.random())
        target = sweep.pid if kill % 2 == 0 else chance.choice(workers_of(sweep) or [sweep.pid])
        workers = workers_of(sweep)
        os.kill(target, signal.SIGKILL)
        if target != sweep.pid:
            count = len(ended(folder))
            wait_for(lambda count=count, sweep=sweep: len(ended(folder)) > count or sweep.poll() is not None)
            workers = workers_of(sweep)
            sweep.kill()
        sweep.wait()
        wait_for(lambda workers=workers: not any(map(is_alive, workers)), 5)
        finished |= ended(folder)
    last = subprocess.run([sys.executable, "run.py", "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    study = study_in(folder)
    assert not [trial for trial in study.trials if not trial.state.is_finished()]
    places_taken = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(places_taken) == n_trials
    for number, values in finished.items():
        assert (study.trials[number].values, study.trials[number].params) == values


def ended(folder: Path) -> dict[int, tuple]:
    """Value and parameters of every completed trial."""
    try:
        found = study_in(folder).get_trials(states=(TrialState.COMPLETE,))
    except (KeyError, FileNotFoundError):  # not begun yet
        return {}
    return {trial.number: (trial.values, trial.params) for trial in found}


def test_ctrl_c_ends_the_trials_cleanly_and_the_same_command_goes_on(places, tmp_path) -> None:
    command = [*TINY, *places, NO_MLFLOW, "sweep.n_trials=3", "sweep.n_jobs=1", "pruner=none"]
    folder = folder_of(tmp_path)
    sweep = start(*command, "loop.max_steps=100000", "sweep.study=default", log=tmp_path / "log.txt")
    wait_for(lambda: (folder / "0" / "metrics.jsonl").exists(), 90)
    time.sleep(1)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(30) == 1
    assert "interrupted" in (tmp_path / "log.txt").read_text().splitlines()[-1]
    trials = study_in(folder).trials
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.WAITING]
    assert trials[0].user_attrs["result"]["status"] == "interrupted"
    lines = (folder / "0" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["status"] == "interrupted"
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"


def test_out_of_memory_divergence_and_errors_end_as_trials_and_not_the_sweep(places, tmp_path) -> None:
    """Diverging LRs are part of the space; a rank without room is refused by the run itself."""
    done = run_py("-m", *TINY, *places, NO_MLFLOW, "sweep.n_trials=6", "sweep.baseline=false", "lora=none",
                  "lora.rank=null" if False else "optimizer=sgd", "optimizer.lr=1e-2,1e30", "loop.grad_clip=null",
                  "sweeps=grid")  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = {t.params["optimizer.lr"]: t for t in study_in(folder_of(tmp_path, "grid")).trials}
    assert states[0.01].state == TrialState.COMPLETE
    assert states[1e30].state == TrialState.PRUNED
    assert states[1e30].constraints == {"diverged": 1.0}


def test_a_finished_sweep_asked_again_says_so_and_runs_nothing(places, tmp_path) -> None:
    command = ["-m", *TINY, *places, NO_MLFLOW, "sweep.n_trials=1"]
    assert run_py(*command).returncode == 0
    again = run_py(*command)
    assert again.returncode == 0
    assert "1 completed" in again.stdout
    assert len(study_in(folder_of(tmp_path)).trials) == 1


def test_four_workers_on_one_journal_make_exactly_n_trials(places, tmp_path) -> None:
    from harness.sweeping.crew import Crew
    from harness.sweeping.sweeper import open_study

    wanted = asked(*TINY, *places, NO_MLFLOW, "sweep.n_trials=17", "sweep.n_jobs=4")
    queue = open_study(wanted)
    queue.limit(wanted.limits)
    crew = Crew(post(wanted), 4, gpus=0)
    crew.start(is_served=False)
    wait_for(lambda: not crew.is_working, 120)
    assert crew.take_dead() == []
    trials = queue.study.trials
    assert len(trials) == 17
    assert all(trial.state.is_finished() for trial in trials)
    assert len({trial.user_attrs["worker"]["pid"] for trial in trials}) == 4
    assert {folder.name for folder in wanted.folder.iterdir() if folder.is_dir()} == {str(n) for n in range(17)}
