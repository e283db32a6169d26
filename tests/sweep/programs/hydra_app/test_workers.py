"""Sweeps of apps in processes of their own: how they are started, killed, resumed, and how they end."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from harness.record.metrics_file import TRIAL_FILE
from tests.sweep.programs.hydra_app.apps import (
    HARNESS,
    app_environment,
    load_app_study,
    read_record,
    read_results,
    run_app,
)
from tests.sweep.programs.hydra_app.digits_app import write_digits_app

REPORTING = """
import time
import hydra
from harness.sweep import report

@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    for step in range(1, 5):
        report(cfg.x / step, step=step, total_steps=4)
        time.sleep(cfg.seconds)
    return cfg.x / 4

if __name__ == "__main__":
    main()
"""
SETTINGS = "x: 1\nseconds: 0\n"
SWEEP = (*HARNESS, "-m", "x=interval(0,9)", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1")


def write_app(folder: Path, code: str = REPORTING, settings: str = SETTINGS) -> Path:
    (folder / "app.py").write_text(code)
    (folder / "settings.yaml").write_text(settings)
    return folder


def start_app(folder: Path, *arguments: str, program: tuple[str, ...] = ("app.py",)) -> subprocess.Popen[bytes]:
    with (folder / "sweep.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *program, *arguments], cwd=folder, env=app_environment(folder), stdout=log, stderr=log
        )


def wait_until(is_true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.05)


def count_records(folder: Path, entry: str = '"start"') -> int:
    return sum(entry in path.read_text() for path in folder.glob(f"*/{TRIAL_FILE}"))


def kill_when_trials_run(process: subprocess.Popen[bytes], sweep: Path, count: int) -> None:
    """Kill a sweep with -9 when `count` trials have started, and wait until its workers have ended."""
    wait_until(lambda: process.poll() is not None or count_records(sweep) >= count)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    wait_until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers))


def check_counts(sweep: Path, n_trials: int) -> None:
    """Check that exactly `n_trials` trials have a result, besides those that were repeated."""
    study = load_app_study(sweep)
    repeated = {trial.user_attrs["retry_of"] for trial in study.trials if "retry_of" in trial.user_attrs}
    ended = [status for status, _ in read_results(study)]
    assert sum(status in ("completed", "pruned") for status in ended) == n_trials
    assert len(study.trials) - n_trials == len(repeated)
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


def test_a_killed_sweep_resumes_and_ends_at_n_trials(tmp_path) -> None:
    arguments = (*SWEEP, "hydra.sweeper.n_trials=3")
    sweep = write_app(tmp_path) / "multirun/app"
    kill_when_trials_run(start_app(tmp_path, *arguments, "seconds=0.2"), sweep, 2)
    done = run_app(tmp_path, *arguments, "seconds=0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    check_counts(sweep, 3)
    assert f"python app.py seconds=0.2 x={load_app_study(sweep).best_params['x']}" in done.stdout


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_trial_repeated(tmp_path) -> None:
    sweep = write_app(tmp_path) / "multirun/app"
    process = start_app(tmp_path, *SWEEP, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2", "seconds=0.2")
    wait_until(lambda: count_records(sweep) >= 3)
    psutil.Process(process.pid).children()[0].kill()
    assert process.wait(60) == 0
    check_counts(sweep, 6)
    assert any(reason == "its worker died" for _, reason in read_results(load_app_study(sweep)))


INTERRUPTING = """
import _thread, os, signal, time
import hydra
from harness.sweep import report

@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    if cfg.x == 1:
        _thread.interrupt_main()
    if cfg.x == 2:
        report(1.0, step=1, total_steps=9)
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    return cfg.x

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_task_that_interrupts_its_process_fails(tmp_path) -> None:
    sweep = write_app(tmp_path, INTERRUPTING) / "multirun/app"
    done = run_app(tmp_path, *HARNESS, "-m", "x=1,2,3", "hydra/sweeper/sampler=grid")
    assert done.returncode == 0, done.stdout + done.stderr
    failed = ("failed", "KeyboardInterrupt: the process got SIGINT")
    assert read_results(load_app_study(sweep)) == [failed, failed, ("completed", "")]


@pytest.mark.slow
def test_ctrl_c_ends_the_trial_at_its_next_report_and_the_command_with_130(tmp_path) -> None:
    sweep = write_app(tmp_path) / "multirun/app"
    process = start_app(tmp_path, *SWEEP, "hydra.sweeper.n_trials=50", "seconds=0.3")
    wait_until(lambda: count_records(sweep, '"metrics"') >= 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    log = (tmp_path / "sweep.log").read_text()
    assert "interrupted: stopped by a signal; run the same command to resume" in log
    assert "Traceback" not in log
    assert ("interrupted", "the sweep was asked to stop") in read_results(load_app_study(sweep))


@pytest.mark.slow
def test_ctrl_c_interrupts_a_task_that_never_reports(tmp_path) -> None:
    code = REPORTING.replace("report(cfg.x", "print(cfg.x").replace("step=step, total_steps=4", "step")
    sweep = write_app(tmp_path, code.replace(", step=step", "")) / "multirun/app"
    process = start_app(tmp_path, *SWEEP, "seconds=100")
    wait_until(lambda: count_records(sweep) >= 1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


FAILING = """
import hydra, os, signal, sys

@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    if cfg.how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.how == "raise":
        raise ValueError("too large")
    if cfg.how == "input":
        return len(input("tags: "))
    return "HARNESS_SWEEP_WORKER" in os.environ

if __name__ == "__main__":
    main()
    print("after the sweep")
"""


@pytest.mark.slow
def test_failures_end_with_a_message_and_a_status(tmp_path) -> None:
    write_app(tmp_path, FAILING, "how: well\nn: 1\n")
    many = (*HARNESS, "-m", "n=range(0,9)", "hydra/sweeper/sampler=grid")
    done = run_app(tmp_path, *many, "how=raise")
    assert done.returncode == 1
    assert "3 trials in a row failed" in done.stderr
    assert "ValueError: too large" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    done = run_app(tmp_path, *many, "how=kill", "hydra.sweeper.study_name=killed")
    assert done.returncode == 1
    assert "its worker died" in done.stdout + done.stderr
    done = run_app(tmp_path, *many, "m=1", "hydra.sweeper.study_name=wrong")
    assert done.returncode == 2 or "Could not override 'm'" in done.stderr  # Hydra composes it first
    done = run_app(tmp_path, *many, "n=interval(3,1)", "hydra.sweeper.study_name=wrong")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "multirun/wrong").exists()


@pytest.mark.slow
def test_a_worker_gives_its_task_no_input_and_its_children_no_sign(tmp_path) -> None:
    write_app(tmp_path, FAILING, "how: well\nn: 1\n")
    done = run_app(
        tmp_path,
        *HARNESS,
        "-m",
        "n=1,2",
        "how=input,well",
        "hydra/sweeper/sampler=grid",
        "hydra.sweeper.max_failure_rate=1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    study = load_app_study(tmp_path / "multirun/app")
    assert {trial.params["how"]: trial.value for trial in study.trials} == {"input": None, "well": 0.0}
    assert ("failed", "EOFError: EOF when reading a line") in read_results(study)
    assert done.stdout.count("after the sweep") == 1
    assert "after the sweep" not in (tmp_path / "multirun/app/worker-0.log").read_text()


FULL = """
import os, sys
from dataclasses import dataclass
from pathlib import Path
import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

OmegaConf.register_resolver("twice", lambda number: 2 * number, replace=True)

@dataclass
class Net:
    layers: int = 1
    name: str = "mlp"

ConfigStore.instance().store(group="net", name="mlp", node=Net)

class Heard(Callback):
    def on_multirun_start(self, config, **kwargs):
        print("HEARD multirun start", flush=True)
    def on_multirun_end(self, config, **kwargs):
        print("HEARD multirun end", flush=True)
    def on_job_start(self, config, **kwargs):
        print("HEARD job", config.hydra.job.num, flush=True)

@hydra.main(config_path="conf", config_name="primary")
def main(cfg):
    assert isinstance(cfg.net.layers, int)
    assert cfg.width == 2 * cfg.net.layers
    assert os.environ["GREETING"] == "hello"
    assert Path.cwd() == Path(HydraConfig.get().runtime.output_dir)
    assert HydraConfig.get().job.name == "full"
    Path("here.txt").write_text(str(cfg.net.layers))
    return cfg.net.layers

def run():
    main()

if __name__ == "__main__":
    main()
"""
PRIMARY = """
defaults: [{net: mlp}, _self_]
width: ${twice:${net.layers}}
hydra:
  mode: MULTIRUN
  job: {chdir: true, name: full, env_set: {GREETING: hello}, config: {override_dirname: {exclude_keys: [width]}}}
  sweep: {dir: 'logs/${now:%Y-%m-%d}/${now:%H-%M-%S}', subdir: '${hydra.job.override_dirname}'}
  callbacks: {heard: {_target_: PACKAGE.Heard}}
  sweeper:
    _target_: hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper
    study_name: ${net.name}_search
    params: {net.layers: 'range(1,4)'}
"""


def write_package(folder: Path) -> None:
    (folder / "pkg/conf").mkdir(parents=True)
    (folder / "pkg/__init__.py").touch()
    (folder / "pkg/app.py").write_text(FULL)
    (folder / "pkg/conf/__init__.py").touch()
    (folder / "pkg/conf/primary.yaml").write_text(PRIMARY.replace("PACKAGE", "pkg.app"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["module", "script", "console script"])
def test_an_app_runs_however_it_is_started(tmp_path, kind) -> None:
    write_package(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    console = tmp_path / "train"
    console.write_text(f"#!{sys.executable}\nfrom pkg.app import run\nrun()\n")
    program = {
        "module": [sys.executable, "-m", "pkg.app"],
        "script": [sys.executable, "-X", "utf8", str(tmp_path / "pkg/app.py")],
        "console script": [str(console)],
    }[kind]
    console.chmod(0o755)
    command = [*program, *HARNESS, "hydra/sweeper/sampler=grid"]
    done = subprocess.run(
        command, cwd=elsewhere, env=app_environment(tmp_path), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = elsewhere / "logs/mlp_search"
    assert sorted(trial.value for trial in load_app_study(sweep).trials) == [1, 2, 3]
    assert (sweep / "net.layers=2/here.txt").read_text() == "2"
    assert read_record(sweep / "1")[-1]["values"] == {"value": 2}
    assert done.stdout.count("HEARD multirun start") == done.stdout.count("HEARD multirun end") == 1
    log = (sweep / "worker-0.log").read_text()
    assert [log.count(f"HEARD job {number}") for number in range(3)] == [1, 1, 1]
    assert "HEARD multirun" not in log
    typed = {
        "module": "python -m pkg.app",
        "script": "python -X utf8 ../pkg/app.py",
        "console script": "python ../train",
    }
    assert f"{typed[kind]} hydra.mode=RUN net.layers=1" in done.stdout


@pytest.mark.slow
def test_an_app_that_changes_during_its_sweep_is_not_mixed(tmp_path) -> None:
    sweep = write_app(tmp_path) / "multirun/app"
    process = start_app(tmp_path, *SWEEP, "hydra.sweeper.n_trials=50", "seconds=0.2")
    wait_until(lambda: count_records(sweep) >= 2)
    (tmp_path / "settings.yaml").write_text(SETTINGS + "new: 1\n")
    psutil.Process(process.pid).children()[0].kill()
    assert process.wait(60) == 1
    assert "new: changed since the sweep was started" in (tmp_path / "sweep.log").read_text()


@pytest.mark.slow
def test_a_lightning_app_prunes_is_killed_and_resumes(tmp_path) -> None:
    write_digits_app(tmp_path)
    env = {**app_environment(tmp_path), "DIGITS_ROOT": str(tmp_path)}
    command = [
        sys.executable, "-m", "digits.train", "-m", "search=optuna", *HARNESS, "hydra.sweeper.n_trials=12",
        "hydra.sweeper.pruner=median",
    ]  # fmt: skip
    sweep = tmp_path / "logs/train/multiruns/train"
    with (tmp_path / "sweep.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
    kill_when_trials_run(process, sweep, 4)
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    check_counts(sweep, 12)
    study = load_app_study(sweep)
    assert "pruned" in [status for status, _ in read_results(study)]
    assert study.best_value > 0.8
    assert study.direction.name == "MAXIMIZE"
    assert "results are in" in (sweep / "1/train.log").read_text()
    best = study.best_params
    assert f"python -m digits.train search=optuna hydra.mode=RUN model.lr={best['model.lr']}" in done.stdout


CUSTOM = """
import hydra

@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    return cfg.w**2 + cfg.x**2 + cfg.z**2

def configure(cfg, trial):
    trial.suggest_float("z", trial.params["x"] - cfg.width, trial.params["x"] + cfg.width)
    trial.suggest_float("+w", 0.0, 1.0)

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_function_in_the_script_itself_extends_the_space(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_TRUST", "my-app.configure")
    (tmp_path / "my-app.py").write_text(CUSTOM)
    (tmp_path / "settings.yaml").write_text("x: 1\nz: 100\nwidth: 0.5\n")
    custom = "hydra.sweeper.custom_search_space=my-app.configure"
    arguments = ("-m", "x=range(-5,5)", custom, "hydra.sweeper.n_trials=4", "width=0.3")
    done = run_app(tmp_path, *HARNESS, *arguments, program=("my-app.py",))
    assert done.returncode == 0, done.stdout + done.stderr
    study = load_app_study(tmp_path / "multirun/my-app")
    assert read_results(study) == [("completed", "")] * 4  # without trial 0, since w has no value without the function
    for trial in study.trials:
        assert abs(trial.params["x"] - trial.params["z"]) <= 0.3
        assert 0 <= trial.params["+w"] <= 1


@pytest.mark.slow
def test_mlflow_has_a_parent_run_and_its_trials(tmp_path) -> None:
    from mlflow import MlflowClient  # takes seconds

    write_app(tmp_path)
    done = run_app(tmp_path, *SWEEP, "hydra.sweeper.n_trials=3", "hydra.sweeper.mlflow=true")
    assert done.returncode == 0, done.stdout + done.stderr
    store = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = store.get_experiment_by_name("app")
    runs = store.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    trials = {run.data.tags["trial"]: run for run in runs if run is not parent}
    assert sorted(trials) == ["0", "1", "2"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {parent.info.run_id}
    study = load_app_study(tmp_path / "multirun/app")
    assert trials["1"].data.params["x"] == str(study.trials[1].params["x"])
    assert trials["1"].data.params["seconds"] == "0"
    assert parent.data.tags["best.command"] == f"python app.py x={study.best_params['x']}"
    curve = store.get_metric_history(trials["0"].info.run_id, "value")
    assert [(point.step, point.value) for point in curve] == [(step, 1 / step) for step in range(1, 5)]
    assert {file.path for file in store.list_artifacts(trials["1"].info.run_id)} >= {"app.log"}
