"""`python run.py -m` from start to end: recorded, resumed, killed, interrupted."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf
from optuna.trial import TrialState

from harness.config.compose import compose_config
from harness.run.runner import run
from harness.sweep.programs.training.sweep import estimate_cost
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import TrialResult
from harness.sweep.study_run import describe_end
from tests.conftest import ROOT, run_main
from tests.sweep.tiny_sweeps import (
    TINY,
    TINY_WITHOUT_LORA,
    make_worker_spec,
    read_tiny_request,
    start_study,
    study_folder,
)
from tests.tracking.stores import new_store


def load_study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=folder.name, storage=open_storage(None, folder))


def start_sweep(*overrides: str, log: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "-m", *overrides],
        stdout=log.open("ab"),
        stderr=subprocess.STDOUT,
        process_group=0,
    )


def find_workers(process: subprocess.Popen) -> list[int]:
    listed = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "harness.sweep.programs.worker"], capture_output=True
    )
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
    raise AssertionError(f"condition not met within {seconds} s")


def check_sweep_folder(study, folder: Path, text: str) -> None:
    best = study.best_trial
    assert [trial.number for trial in study.trials] == list(range(6))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert len({trial.user_attrs["worker"]["pid"] for trial in study.trials}) == 2
    assert {place.name for place in folder.iterdir() if place.name.isdecimal()} == {str(n) for n in range(6)}
    found = OmegaConf.load(folder / "optimization_results.yaml")
    assert (found.name, found.best_trial, found.best_value) == ("optuna", best.number, best.value)
    assert dict(found.best_params) == best.params
    assert f"trial {best.number}" in text
    assert f"optimizer.lr={best.params['optimizer.lr']}" in text
    ranked = sorted(study.trials, key=lambda trial: trial.value)
    with_checkpoints = {trial.number for trial in study.trials if (folder / str(trial.number) / "checkpoints").exists()}
    assert with_checkpoints == {trial.number for trial in ranked[:2]}


def check_mlflow_runs(study, place: Path) -> None:
    best = study.best_trial
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    [experiment] = [one for one in client.search_experiments() if one.name == "default"]
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    trials = {re.match(r"default/(\d+) adamw ", one.info.run_name)[1]: one for one in runs if one is not parent}
    assert sorted(trials) == [str(number) for number in range(6)]
    assert {one.data.tags["mlflow.parentRunId"] for one in trials.values()} == {parent.info.run_id}
    assert (parent.info.run_name, parent.info.status) == ("default", "FINISHED")
    assert parent.data.tags["best_trial"] == str(best.number)
    assert parent.data.tags["best_run_id"] == trials[str(best.number)].info.run_id
    assert parent.data.metrics["sweep/best_val_loss"] == best.value
    assert parent.data.metrics["sweep/trials.completed"] == 6
    assert "figures/history.png" in [file.path for file in client.list_artifacts(parent.info.run_id, "figures")]
    for trial in study.trials:
        recorded = trials[str(trial.number)].data
        assert float(recorded.params["optimizer.lr"]) == trial.params["optimizer.lr"]
        assert recorded.params["used.threads"] == "1"
        assert recorded.metrics["val/best_loss"] == pytest.approx(trial.value)


def check_trial_equals_single_run(study, places: list[str]) -> None:
    last = study.trials[5]
    overrides = [f"{key}={value}" for key, value in last.params.items()]
    alone = run(compose_config([*TINY, *places, "observers=metrics_only", "device.threads=1", *overrides]))
    assert alone.best_val_loss == last.value


def test_completed_sweep(places, tmp_path, monkeypatch, capsys) -> None:
    new_store(tmp_path)
    command = ["-m", *TINY, *places, "sweep.n_trials=6", "sweep.keep=2", "sweep.n_jobs=2", "pruner=none"]
    assert run_main(monkeypatch, *command) == 0
    study = load_study(study_folder(tmp_path))
    text = capsys.readouterr().out
    check_sweep_folder(study, study_folder(tmp_path), text)
    check_mlflow_runs(study, tmp_path)
    check_trial_equals_single_run(study, places)
    assert run_main(monkeypatch, *command) == 0
    assert "6 completed" in capsys.readouterr().out
    assert len(load_study(study_folder(tmp_path)).trials) == 6


def test_random_kills_lose_no_completed_trial(places, tmp_path, monkeypatch) -> None:
    """Kill the sweep and a worker; tests/systems/test_kills.py kills a hundred times."""
    kills, n_trials = 2, 6
    command = [*TINY_WITHOUT_LORA, *places, f"sweep.n_trials={n_trials}", "sweep.n_jobs=1", "loop.max_steps=400",
               "sweep.max_failures=null", "hydra/sweeper/sampler=random"]  # fmt: skip
    folder, log, chance = study_folder(tmp_path), tmp_path / "log.txt", random.Random(kills)
    finished: dict[int, tuple] = {}
    for kill in range(kills):
        sweep = start_sweep(*command, log=log)
        before = len(finished)
        wait_for(lambda before=before: len(read_completed(folder)) > before, 120)
        time.sleep(chance.random())
        target = sweep.pid if kill % 2 == 0 else chance.choice(find_workers(sweep) or [sweep.pid])
        workers = find_workers(sweep)
        os.kill(target, signal.SIGKILL)
        if target != sweep.pid:
            count = len(read_completed(folder))
            wait_for(lambda count=count, sweep=sweep: len(read_completed(folder)) > count or sweep.poll() is not None)
            workers = find_workers(sweep)
            sweep.kill()
        sweep.wait()
        wait_for(lambda workers=workers: not any(map(is_alive, workers)), 5)
        finished |= read_completed(folder)
    assert run_main(monkeypatch, "-m", *command) == 0
    study = load_study(folder)
    assert not [trial for trial in study.trials if not trial.state.is_finished()]
    completed = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(completed) == n_trials
    for number, values in finished.items():
        assert (study.trials[number].values, study.trials[number].params) == values


def read_completed(folder: Path) -> dict[int, tuple]:
    """Return values and parameters of every completed trial."""
    try:
        found = load_study(folder).get_trials(states=(TrialState.COMPLETE,))
    except (KeyError, FileNotFoundError):  # no study yet
        return {}
    return {trial.number: (trial.values, trial.params) for trial in found}


def test_ctrl_c_interrupts_trials_which_wait_to_be_continued(places, tmp_path) -> None:
    command = [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=3", "sweep.n_jobs=1"]
    folder = study_folder(tmp_path)
    sweep = start_sweep(*command, "loop.max_steps=100000", "sweep.study=default", log=tmp_path / "log.txt")
    wait_for(lambda: (folder / "0" / "metrics.jsonl").exists(), 90)
    time.sleep(1)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(30) == 128 + signal.SIGINT
    assert "interrupted" in (tmp_path / "log.txt").read_text().splitlines()[-1]
    trials = load_study(folder).trials
    assert [trial.state for trial in trials] == [TrialState.WAITING]  # to be continued
    assert trials[0].user_attrs["result"]["status"] == "interrupted"
    lines = (folder / "0" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["status"] == "interrupted"
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"


FAULTY_OPTIMIZER = """
import torch

class FaultySGD(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.lr = lr
        for parameter in (p for group in self.param_groups for p in group["params"] if lr == 0.2):
            parameter.register_hook(lambda gradient: self.fail())

    def fail(self):
        raise torch.OutOfMemoryError("out of memory")

    def step(self, closure=None):
        if self.lr == 0.3:
            raise RuntimeError("user error")
        super().step(closure)

def extend_space(cfg, trial):
    trial.suggest_categorical("seed", [5])
"""
FAULTY_YAML = "# python run.py optimizer=faulty\n_target_: faulty.FaultySGD\n_partial_: true\nlr: 0.1\n"


def test_failing_trials_do_not_end_the_sweep(places, tmp_path, monkeypatch) -> None:
    """Use an optimizer from the user's own module, and a search space extended by the user's own function."""
    (tmp_path / "own" / "optimizer").mkdir(parents=True)
    (tmp_path / "own" / "optimizer" / "faulty.yaml").write_text(FAULTY_YAML)
    (tmp_path / "own" / "faulty.py").write_text(FAULTY_OPTIMIZER)
    monkeypatch.setenv("HARNESS_TRUST", "faulty.FaultySGD, faulty.extend_space")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "own"))  # for the worker
    monkeypatch.syspath_prepend(tmp_path / "own")
    status = run_main(
        monkeypatch, "-m", "--config-dir", f"{tmp_path}/own", *TINY, *places, "~observers.mlflow", "sweeps=grid",
        "optimizer=faulty",
        "optimizer.lr=0.1,1e30,0.2,0.3", "loop.grad_clip=null", "lora=none", "sweep.allow=[optimizer.lr]",
        "hydra.sweeper.custom_search_space=faulty.extend_space",
    )  # fmt: skip
    assert status == 0
    trials = load_study(study_folder(tmp_path, "grid")).trials
    assert [trial.user_attrs["result"]["status"] for trial in trials] == ["completed", "diverged", "failed", "failed"]
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL
    ]  # fmt: skip
    assert trials[1].constraints == {"diverged": 1.0}
    assert "out of memory" in trials[2].user_attrs["result"]["reason"]
    assert re.fullmatch(
        r"RuntimeError: user error \(.*faulty\.py, line \d+\)", trials[3].user_attrs["result"]["reason"]
    )
    assert all(trial.params["seed"] == 5 for trial in trials)


def test_cost_estimate_writes_nothing(places, tmp_path) -> None:
    text = estimate_cost(read_tiny_request(*TINY, *places, "sweep.n_trials=7", "sweep.n_jobs=2"))
    assert "Study default: 7 trials by 2 workers" in text
    assert "optimizer.lr: tag(log,interval(0.0001,0.1))" in text
    assert "per trial: 4 steps of" in text
    assert "base model" not in text  # start=scratch
    assert not (tmp_path / "outputs").exists()


def test_cost_estimate_of_a_budget_in_runs(places) -> None:
    options = [*TINY, *places, "pruner=pausing", "sweep.n_jobs=2"]
    text = estimate_cost(read_tiny_request(*options, "sweep.n_trials=null", "sweep.runs=3"))
    found = re.search(r"per trial: .* s, ([\d,]+) tokens", text)
    assert found
    tokens = int(found[1].replace(",", ""))
    assert "Study default: 3 runs in up to 75 trials by 2 workers" in text
    assert f"in total: at most 3 runs = {3 * tokens:,} tokens, " in text
    assert "without pruning" not in text
    limited = estimate_cost(read_tiny_request(*options, "sweep.n_trials=null", f"sweep.max_tokens={2 * tokens}"))
    assert f"Study default: {2 * tokens:,} tokens in up to 1000 trials by 2 workers" in limited
    assert f"at most 2 runs = {2 * tokens:,} tokens, " in limited


@pytest.mark.slow  # fast tests: two workers in test_completed_sweep, many threads in study/test_trial_queue.py
def test_four_workers_run_exactly_n_trials(places, tmp_path) -> None:
    from harness.sweep.study.setup import open_study
    from harness.sweep.workers.worker_pool import WorkerPool

    request = read_tiny_request(*TINY_WITHOUT_LORA, *places, "sweep.n_trials=17", "sweep.n_jobs=4")
    queue = open_study(request)
    queue.set_budget(request.budget)
    pool = WorkerPool(replace(make_worker_spec(request), n_jobs=4))
    pool.start_workers(has_heartbeat_trials=False)
    wait_for(lambda: not pool.has_workers, 120)
    assert pool.take_dead_workers() == []
    trials = queue.study.trials
    assert len(trials) == 17
    assert all(trial.state.is_finished() for trial in trials)
    assert len({trial.user_attrs["worker"]["pid"] for trial in trials}) == 4
    assert {folder.name for folder in request.folder.iterdir() if folder.is_dir()} == {str(n) for n in range(17)}


def test_a_spent_budget_says_which_limit_to_raise(places) -> None:
    """Not that of the time: the only trial was interrupted, and a lower limit leaves nothing for the rest of it."""
    command = [*TINY_WITHOUT_LORA, *places, "pruner=pausing", "sweep.n_trials=null"]
    queue = start_study(*command, "sweep.max_tokens=1000")
    trial = queue.claim_trial()
    assert trial is not None
    queue.finish_trial(trial, TrialResult("interrupted", tokens=900, fraction_done=0.5, checkpoint="x"))
    queue = start_study(*command, "sweep.max_tokens=950")
    end = describe_end(read_tiny_request(*command, "sweep.max_tokens=950"), queue)
    assert (end.status, end.remedy) == ("failed", "raise sweep.max_tokens")
    assert end.reason == "no trial was run: the budget of 950 tokens is used up"
