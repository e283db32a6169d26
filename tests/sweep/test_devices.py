"""Trials of our own training on two devices: two processes on the CPU, which torchrun starts."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import psutil
import pytest
from optuna.trial import TrialState

from harness.core.errors import ConfigError
from harness.run.runner import run
from harness.sweep.programs import make_trial_runner
from harness.sweep.programs.training.rerun import prepare_training_rerun
from harness.sweep.request import check_launcher, plan_workers
from harness.sweep.rerun import RerunOptions
from harness.sweep.study.budget import find_share_done
from harness.sweep.study.trial_attrs import RETRIES, trial_values
from harness.sweep.swept_study import load_swept_study
from harness.sweep.workers.worker import run_trials
from tests.conftest import run_script
from tests.run.test_run import read_record, read_series
from tests.sweep.test_pausing_training import PAUSING
from tests.sweep.test_sweeper import is_alive, load_study, start_sweep, wait_for
from tests.sweep.tiny_sweeps import make_worker_spec, read_tiny_request, start_study, study_folder
from tests.sweep.workers.test_launcher_pool import CLUSTER_LAUNCHERS

ON_TWO = [*PAUSING, "model.dropout=0.0", "sweep.devices_per_trial=2"]
LONG = [*ON_TWO, "loop.max_steps=600", "pruner=none", "sweep.n_trials=2"]


def test_a_trial_pauses_and_continues_on_two_devices_as_on_one(places: list[str], tmp_path: Path) -> None:
    sweep = [*ON_TWO, *places, "pruner.rungs=[0.3]", "sweep.runs=2"]
    request, queue = read_tiny_request(*sweep), start_study(*sweep)
    run_trials(make_worker_spec(request), make_trial_runner, lambda: False)
    trials = queue.study.trials
    assert sum(map(find_share_done, trials)) <= 2 + 1e-9
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    for trial in trials:
        folder = request.folder / str(trial.number)
        cfg = request.space.compose_config(trial_values(trial), ["observers=metrics_only"])
        alone = run(cfg, folder=tmp_path / f"alone-{trial.number}", probes=request.spec.list_rungs())
        for name in ("train/loss", "train/grad_norm", "val/loss"):
            assert read_series(folder, name) == pytest.approx(read_series(alone.folder, name), abs=1e-5), name
        assert trial.value == pytest.approx(alone.best_val_loss, abs=1e-5)
        entries = read_record(folder)
        assert [entry["kind"] for entry in entries].count("start") == 1
        assert entries[0]["effective"]["devices"] == 2


@pytest.mark.slow
def test_pauses_on_two_devices_change_no_bit(places: list[str]) -> None:
    curves = []
    for choices in (["pruner.rungs=[0.3]", "sweep.study=paused"], ["pruner=none", "sweep.study=straight"]):
        sweep = [*PAUSING, "sweep.devices_per_trial=2", *choices, *places, "sweep.runs=2"]
        request, queue = read_tiny_request(*sweep), start_study(*sweep)
        run_trials(make_worker_spec(request), make_trial_runner, lambda: False)
        curves.append([read_series(request.folder / "1", name) for name in ("train/loss", "train/grad_norm")])
        assert queue.study.trials[1].state == TrialState.COMPLETE
    assert curves[0] == curves[1]


@contextmanager
def running_sweep(*overrides: str) -> Iterator[subprocess.Popen]:
    """Start a sweep, and kill it at the end of the block."""
    with NamedTemporaryFile() as log:
        sweep = start_sweep(*overrides, log=Path(log.name))
        try:
            yield sweep
        except AssertionError as error:
            raise AssertionError(Path(log.name).read_text()) from error
        finally:
            sweep.kill()
            sweep.wait()


def find_processes(sweep: subprocess.Popen, rank: str) -> list[psutil.Process]:
    """Return the processes of trials that have this rank."""
    found = []
    for process in psutil.Process(sweep.pid).children(recursive=True):
        try:
            is_process = process.cmdline()[1:] == ["-m", "harness.sweep.programs.worker"]
            if is_process and process.environ().get("RANK") == rank:
                found.append(process)
        except psutil.Error:
            pass
    return found


def count_steps(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count('"train/loss"') if path.exists() else 0


@pytest.mark.slow
def test_a_killed_process_ends_its_trial_which_is_continued(places: list[str], tmp_path: Path) -> None:
    folder = study_folder(tmp_path)
    with running_sweep(*LONG, *places) as sweep:
        wait_for(lambda: count_steps(folder / "0") > 3, 300)
        [first], [second] = find_processes(sweep, "0"), find_processes(sweep, "1")
        second.kill()
        wait_for(lambda: not is_alive(first.pid), 60)
        assert sweep.wait(300) == 0
    trials = load_study(folder).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert trials[0].user_attrs[RETRIES] == 1
    assert len(read_series(folder / "0", "train/loss")) == count_steps(folder / "1")
    assert "process 1 of 2 died" in (folder / "worker-0.log").read_text()


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_after_their_step_and_the_sweep_is_resumed(places: list[str], tmp_path: Path) -> None:
    folder, command = study_folder(tmp_path), [*LONG, *places, "loop.max_steps=100000"]
    with running_sweep(*command) as sweep:
        wait_for(lambda: count_steps(folder / "0") > 3, 300)
        processes = [*find_processes(sweep, "0"), *find_processes(sweep, "1")]
        assert len(processes) == 2
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait(60) == 128 + signal.SIGINT
    assert not any(is_alive(process.pid) for process in processes)
    assert read_record(folder / "0")[-1]["status"] == "interrupted"
    n_steps = count_steps(folder / "0")
    with running_sweep(*command) as again:
        wait_for(lambda: count_steps(folder / "0") > n_steps, 300)
        processes = [*find_processes(again, "0"), *find_processes(again, "1")]
    wait_for(lambda: not any(is_alive(process.pid) for process in processes), 20)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", *CLUSTER_LAUNCHERS])
def test_two_workers_with_two_processes_each_run_exactly_n_trials(launcher, places, tmp_path: Path) -> None:
    sweep = [*ON_TWO, *places, "pruner=none", "loop.max_steps=4", "sweep.n_trials=4", "sweep.n_jobs=2"]
    done = run_script("-m", *sweep, f"hydra/launcher={launcher}", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial.state for trial in load_study(study_folder(tmp_path)).trials] == [TrialState.COMPLETE] * 4
    rerun = prepare_training_rerun(load_swept_study(str(study_folder(tmp_path)), tmp_path), RerunOptions())
    assert rerun.workers.n_processes == 2


def test_workers_have_the_devices_of_their_trials() -> None:
    gpus = ["0", "1", "2", "3"]
    plan = plan_workers("basic", None, gpus, devices_per_trial=2)
    assert (plan.n_jobs, plan.n_processes) == (2, 2)
    assert str(replace(plan, n_threads=1)) == "2 workers with 2 devices each and 1 thread per device"
    assert plan_workers("basic", 3, gpus, devices_per_trial=4).n_jobs == 3
    assert plan_workers("submitit_slurm", 3, gpus, devices_per_trial=8).gpus == ()
    message = r"sweep.devices_per_trial: 5: this machine has 4 GPUs; lower it, or hide the GPUs with CUDA_VISIBLE_DEV"
    with pytest.raises(ConfigError, match=message):
        plan_workers("basic", 1, gpus, devices_per_trial=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gpus_per_node": 2},
            "gpus_per_node: 2: sweep.devices_per_trial=4 needs more; set hydra.launcher.gpus",
        ),
        ({"tasks_per_node": 4}, "tasks_per_node: 4: a job of a sweep is one task, which starts the processes"),
        ({"nodes": 2}, "nodes: 2: a job of a sweep is one task"),
    ],
)
def test_jobs_of_a_launcher_must_have_the_devices(settings, message, places) -> None:
    options = read_tiny_request(*PAUSING, *places, "sweep.devices_per_trial=4", "sweep.n_jobs=1").options
    with pytest.raises(ConfigError, match=f"hydra.launcher.{message}"):
        check_launcher("submitit_slurm", settings, options)
    check_launcher("submitit_slurm", {"gpus_per_node": 4, "tasks_per_node": 1, "nodes": 1}, options)


def test_an_invalid_number_of_devices_is_refused(places: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"sweep.devices_per_trial: 0 must be at least 1"):
        read_tiny_request(*PAUSING, *places, "sweep.devices_per_trial=0")
