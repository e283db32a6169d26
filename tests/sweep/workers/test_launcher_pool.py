"""Sweeps through Hydra's launchers, and on a database shared by several hosts."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from uuid import uuid4

import optuna
import psutil
import pytest
import sqlalchemy
from hydra.errors import MissingConfigException
from optuna.trial import FrozenTrial, TrialState

from harness.config.errors import explain_error
from harness.sweep.study.liveness import this_process
from harness.sweep.study.storage import HEARTBEAT_GRACE_SECONDS, open_storage
from harness.sweep.study.trial_attrs import RETRIES, RETRY_OF, WORKER
from tests.conftest import run_script
from tests.sweep.test_sweeper import is_alive, load_study, start_sweep, wait_for
from tests.sweep.tiny_sweeps import TINY, TINY_WITHOUT_LORA, make_result, start_study, study_folder

SMALL = [*TINY_WITHOUT_LORA, "loop.max_steps=40", "sweep.n_jobs=2"]
ENDLESS = ["loop.max_steps=1000000"]
SLURM = pytest.mark.skipif("HARNESS_TEST_SLURM" not in os.environ, reason="run tests/services/slurm.sh")
RAY = pytest.mark.skipif("HARNESS_TEST_RAY" not in os.environ, reason="run tests/services/ray.sh")
LOCAL_LAUNCHERS = ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow)]
CLUSTER_LAUNCHERS = [
    pytest.param("submitit_slurm", marks=[pytest.mark.slurm, SLURM]),
    pytest.param("ray", marks=[pytest.mark.ray, RAY]),
]


def worker_pids(study: optuna.Study) -> set[int]:
    return {trial.user_attrs[WORKER]["pid"] for trial in study.trials if WORKER in trial.user_attrs}


def running_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=(TrialState.RUNNING,))


def wait_for_trials(folder: Path, count: int) -> None:
    """Wait until `count` trials have started to train."""
    wait_for(lambda: len(list(folder.glob("*/metrics.jsonl"))) >= count, 120)


def descendant_pids(pid: int) -> list[int]:
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


@pytest.mark.parametrize("launcher", [*LOCAL_LAUNCHERS, *CLUSTER_LAUNCHERS])
def test_a_launchers_jobs_run_exactly_n_trials(launcher, places, tmp_path) -> None:
    done = run_script("-m", *SMALL, *places, "sweep.n_trials=5", f"hydra/launcher={launcher}")
    assert done.returncode == 0, done.stdout + done.stderr
    study = load_study(study_folder(tmp_path))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5
    assert len(worker_pids(study)) == 2
    assert {trial.user_attrs["result"]["threads"] for trial in study.trials} == {1}


def test_a_missing_launcher_is_reported_with_the_command_that_installs_it() -> None:
    missing = MissingConfigException("", missing_cfg_file="hydra/launcher/submitit_slurm", options=["basic"])
    message = "hydra/launcher=submitit_slurm: this launcher is not installed; pip install 'plateau-harness[slurm]'"
    assert explain_error(missing, []) == message


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LOCAL_LAUNCHERS)
def test_a_launchers_workers_end_with_their_sweep_and_on_ctrl_c(launcher, places, tmp_path) -> None:
    command = [*SMALL, *places, *ENDLESS, "sweep.n_trials=3", f"hydra/launcher={launcher}"]
    folder = study_folder(tmp_path)
    killed = start_sweep(*command, log=tmp_path / "killed.txt")
    wait_for_trials(folder, 2)
    started = descendant_pids(killed.pid)
    killed.kill()
    killed.wait()
    wait_for(lambda: not any(map(is_alive, started)), 20)

    stopped = start_sweep(*command, log=tmp_path / "stopped.txt")
    wait_for_trials(folder, 4)
    started = descendant_pids(stopped.pid)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(30) == 128 + signal.SIGINT
    wait_for(lambda: not any(map(is_alive, started)), 20)
    assert "interrupted" in (tmp_path / "stopped.txt").read_text().splitlines()[-1]
    assert not running_trials(load_study(folder))


def check_second_attempt(study: optuna.Study, lost: FrozenTrial) -> None:
    """Check that a trial whose worker was killed was continued, or queued again if it had no checkpoint."""
    if study.trials[lost.number].state == TrialState.FAIL:
        [again] = [trial for trial in study.trials if RETRY_OF in trial.user_attrs]
        assert (again.user_attrs[RETRY_OF], again.params) == (lost.number, lost.params)
    else:
        assert study.trials[lost.number].user_attrs[RETRIES] == 1
        assert study.trials[lost.number].params == lost.params


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LOCAL_LAUNCHERS)
def test_a_launchers_dead_worker_is_replaced_and_its_trial_retried(launcher, places, tmp_path) -> None:
    command = [*SMALL, *places, "loop.max_steps=400", "sweep.n_trials=4", f"hydra/launcher={launcher}"]
    folder = study_folder(tmp_path)
    sweep = start_sweep(*command, log=tmp_path / "log.txt")
    wait_for_trials(folder, 2)
    lost = running_trials(load_study(folder))[0]
    os.kill(lost.user_attrs[WORKER]["pid"], signal.SIGKILL)
    assert sweep.wait(100) == 0, (tmp_path / "log.txt").read_text()
    study = load_study(folder)
    assert [trial.state for trial in study.trials].count(TrialState.COMPLETE) == 4
    check_second_attempt(study, lost)
    assert len(worker_pids(study)) == 3


@pytest.fixture
def database() -> str:
    """Create a database on the server at HARNESS_TEST_POSTGRES and return its URL."""
    if "HARNESS_TEST_POSTGRES" not in os.environ:
        pytest.skip("run tests/services/postgres.sh")
    server, name = sqlalchemy.make_url(os.environ["HARNESS_TEST_POSTGRES"]), f"test_{uuid4().hex}"
    with sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    return server.set(database=name).render_as_string(hide_password=False)


def load_shared_study(database: str) -> optuna.Study:
    return optuna.load_study(study_name="default", storage=open_storage(database, Path()))


@pytest.mark.postgres
def test_four_workers_on_postgresql_run_exactly_n_trials(database, places) -> None:
    command = [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=9", "sweep.n_jobs=4", f"sweep.storage={database}"]
    done = run_script("-m", *command, timeout=240)
    assert done.returncode == 0, done.stderr
    study = load_shared_study(database)
    assert len(study.trials) == 9
    assert all(trial.state.is_finished() for trial in study.trials)
    assert len(worker_pids(study)) == 4


@pytest.mark.postgres
def test_on_postgresql_the_trial_of_a_killed_worker_is_retried(database, places, tmp_path) -> None:
    command = [*SMALL, *places, "loop.max_steps=400", "sweep.n_trials=3", f"sweep.storage={database}"]
    sweep = start_sweep(*command, log=tmp_path / "log.txt")
    wait_for_trials(study_folder(tmp_path), 1)
    lost = running_trials(load_shared_study(database))[0]
    os.kill(lost.user_attrs[WORKER]["pid"], signal.SIGKILL)
    assert sweep.wait(100) == 0, (tmp_path / "log.txt").read_text()
    trials = load_shared_study(database).trials
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 3
    check_second_attempt(load_shared_study(database), lost)


@pytest.mark.postgres
def test_two_hosts_that_start_together_run_exactly_n_trials(database, cache_dir, tmp_path) -> None:
    hosts: list[tuple[subprocess.Popen, Path]] = []
    for name in ("one", "two"):
        command = [*SMALL, "sweep.n_trials=8", f"sweep.storage={database}", f"cache_dir={cache_dir}"]
        log = tmp_path / f"{name}.txt"
        hosts.append((start_sweep(*command, f"output_dir={tmp_path / name}", log=log), log))
    for host, log in hosts:
        assert host.wait(240) == 0, log.read_text()
    study = load_shared_study(database)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 8
    assert len(worker_pids(study)) == 4
    made = [{folder.name for folder in (tmp_path / name / "sweeps/default").glob("[0-9]*")} for name in ("one", "two")]
    assert made[0]
    assert made[1]
    assert not made[0] & made[1]
    assert made[0] | made[1] == {str(number) for number in range(8)}


@pytest.mark.postgres
def test_on_postgresql_processes_with_different_folders_share_one_lock(database, places, tmp_path) -> None:
    arguments = [*TINY, *places, f"sweep.storage={database}"]
    here = start_study(*arguments)
    there = start_study(*arguments, f"output_dir={tmp_path}/elsewhere")
    with here.hold_lock():
        waiting = threading.Thread(target=there.claim_trial)
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive()
    waiting.join(20)
    assert [trial.number for trial in running_trials(here.study)] == [0]


@pytest.mark.postgres
def test_a_trial_on_another_host_is_retried_when_its_heartbeat_stops(database, places) -> None:
    queue = start_study(*TINY, *places, f"sweep.storage={database}")
    trial = queue.claim_trial()
    trial.set_user_attr(WORKER, {**this_process(), "host": "elsewhere"})
    assert queue.reap_dead_trials(is_leftover=False) == []
    with sqlalchemy.create_engine(database).begin() as connection:
        old = f"UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '{HEARTBEAT_GRACE_SECONDS + 1} seconds'"
        assert connection.execute(sqlalchemy.text(old)).rowcount == 1
    assert queue.reap_dead_trials(is_leftover=True) == [0]
    again = queue.claim_trial()
    assert (again.user_attrs[RETRY_OF], again.params) == (0, trial.params)
    queue.finish_trial(trial, make_result())  # its worker was alive after all
    assert queue.study.trials[0].state == TrialState.FAIL
    queue.finish_trial(again, make_result(loss=2.0))
    assert queue.study.best_trial.number == again.number
