"""Apps that report checkpoints: their trials pause at rungs, and are continued as if nothing had happened."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from optuna.trial import TrialState

from harness.core.errors import RunFailedError
from harness.record.metrics_file import TRIAL_FILE
from harness.sweep import report, resume_from
from tests.sweep.programs.hydra_app.apps import HARNESS, load_app_study, read_record, run_app, sweep_here
from tests.sweep.programs.hydra_app.pausing_app import train_without_pauses, write_pausing_app
from tests.sweep.programs.hydra_app.test_workers import count_records, start_app, wait_until

PAUSING = ("hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1")
N_KILLS = int(os.environ.get("N_KILLS", "6"))
SWEEP = (*HARNESS, "-m", "lr=log(1e-4,1e-1)", *PAUSING, "hydra.sweeper.n_trials=9")


def read_curve(folder: Path) -> list[tuple[int, float]]:
    """Return the curve of a trial, whose record must be that of one run, however often it was paused."""
    entries = read_record(folder)
    kinds = [entry["kind"] for entry in entries]
    assert (kinds[0], kinds.count("start"), kinds.index("end")) == ("start", 1, len(kinds) - 1)
    curve = [(entry["step"], entry["metrics"]["value"]) for entry in entries if entry["kind"] == "metrics"]
    assert [step for step, _ in curve] == sorted({step for step, _ in curve})
    return curve


def count_continued(sweep: Path) -> int:
    return sum('"continue"' in path.read_text() for path in sweep.glob(f"*/{TRIAL_FILE}"))


def check_curves(folder: Path, sweep: Path, study: optuna.Study) -> None:
    """Check that paused and continued trials have the curves of trainings that nothing has interrupted."""
    for trial in study.trials:
        alone = [(step, value) for value, step, _ in train_without_pauses(folder, trial.params.get("lr", 0.01))]
        curve = read_curve(sweep / str(trial.number))
        assert curve == alone[: len(curve)]
        assert len(curve) == len(alone) or trial.state == TrialState.WAITING
        assert trial.value in (None, alone[-1][1])


def kill_in_continued_trial(process: Any, sweep: Path) -> None:
    """Kill the worker with -9 while it runs a trial that was paused before."""

    def is_in_continued_trial() -> bool:
        lines = [path.read_text().splitlines() for path in sweep.glob(f"*/{TRIAL_FILE}")]
        ends = [json.loads(one[-1])["kind"] for one in lines if len(one) > 1 and any('"continue"' in x for x in one)]
        return "metrics" in ends or "checkpoint" in ends

    wait_until(lambda: process.poll() is not None or is_in_continued_trial())
    [worker] = [child for child in psutil.Process(process.pid).children() if "app.py" in " ".join(child.cmdline())]
    worker.kill()


@pytest.mark.slow
def test_a_sweep_pauses_is_killed_and_continues_its_trials(tmp_path: Path) -> None:
    sweep = write_pausing_app(tmp_path)
    process = start_app(tmp_path, *SWEEP, "seconds=0.05")
    kill_in_continued_trial(process, sweep)
    assert process.wait(120) == 0, (tmp_path / "sweep.log").read_text()
    study = load_app_study(sweep)
    assert len(study.trials) == 9
    assert not [trial for trial in study.trials if "retry_of" in trial.user_attrs]
    assert sum(trial.user_attrs.get("retries", 0) for trial in study.trials) == 1
    n_complete = len(study.get_trials(states=(TrialState.COMPLETE,)))
    assert 2 <= n_complete < 9
    assert len(study.get_trials(states=(TrialState.WAITING,))) == 9 - n_complete
    assert count_continued(sweep) >= 2
    check_curves(tmp_path, sweep, study)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_was_stopped_continues_the_trial_that_ran(tmp_path: Path, kill: signal.Signals) -> None:
    sweep = write_pausing_app(tmp_path)
    process = start_app(tmp_path, *SWEEP, "seconds=0.2")
    wait_until(lambda: count_records(sweep, '"checkpoint"') >= 1)  # of trial 0, which never pauses
    process.send_signal(kill)
    process.wait(60)
    wait_until(lambda: not any(str(tmp_path) in one.info["cwd"] for one in iterate_processes()))
    done = run_app(tmp_path, *SWEEP, "seconds=0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    study = load_app_study(sweep)
    assert len(study.trials) == 9
    assert [entry["kind"] for entry in read_record(sweep / "0")].count("continue") == 1
    check_curves(tmp_path, sweep, study)


def iterate_processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] and process.status() != psutil.STATUS_ZOMBIE:
            yield process


KILLED = """
import json, os, time
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from harness.sweep import report, resume_from

@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    state = json.loads(Path(path).read_text()) if (path := resume_from()) else {"step": 0, "sum": 0.0}
    for step in range(state["step"] + 1, 26):
        state = {"step": step, "sum": state["sum"] + cfg.x / step}
        last = Path(HydraConfig.get().runtime.output_dir, "last.json")
        last.with_suffix(".tmp").write_text(json.dumps(state))
        os.replace(last.with_suffix(".tmp"), last)
        report(state["sum"], step=step, total_steps=25, checkpoint=last)
        time.sleep(0.05)
    return state["sum"]

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_has_whole_curves(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(KILLED)
    (tmp_path / "settings.yaml").write_text("x: 1.0\n")
    sweep, chance = tmp_path / "multirun/app", random.Random(0)
    arguments = (*HARNESS, "-m", "x=interval(1,10)", *PAUSING, "hydra.sweeper.n_trials=12", "hydra.sweeper.n_jobs=2")
    for _ in range(N_KILLS):
        process = start_app(tmp_path, *arguments)
        wait_until(partial(has_begun, process, sweep, measure_records(sweep)))
        time.sleep(chance.uniform(0, 2))
        targets = [process, *psutil.Process(process.pid).children()] if process.poll() is None else []
        for target in chance.sample(targets, min(len(targets), chance.choice([1, 1, 3]))):
            target.kill()
        if chance.random() < 0.5:
            process.kill()
            process.wait()
    process.wait(120)
    done = run_app(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    study = load_app_study(sweep)
    assert len([trial for trial in study.trials if "retry_of" not in trial.user_attrs]) == 12
    for trial in study.trials:
        if trial.state not in (TrialState.COMPLETE, TrialState.WAITING):
            continue
        total, sums = 0.0, []
        for step in range(1, 26):
            total += trial.params.get("x", 1.0) / step
            sums.append((step, total))
        curve = read_curve(sweep / str(trial.number))
        assert curve == sums[: len(curve)]
        assert trial.state != TrialState.COMPLETE or trial.value == total


def has_begun(process: Any, sweep: Path, n_bytes: int) -> bool:
    """Return whether a sweep has written to records of this size, or has ended."""
    return process.poll() is not None or measure_records(sweep) > n_bytes


def measure_records(sweep: Path) -> int:
    return sum(path.stat().st_size for path in sweep.glob(f"*/{TRIAL_FILE}"))


class Summing:
    """A training whose loss depends on all its steps; it can be continued from the sum of those."""

    def __init__(self, save: Callable[[Path, str], str | Path | None]) -> None:
        self.starts: list[tuple[int, int]] = []  # trial, first step
        self._save = save

    def __call__(self, cfg: DictConfig) -> float:
        state = json.loads(Path(path).read_text()) if (path := resume_from()) else {"step": 0, "sum": 0.0}
        self.starts.append((HydraConfig.get().job.num, state["step"] + 1))
        for step in range(state["step"] + 1, 26):
            state = {"step": step, "sum": state["sum"] + cfg.x / step}
            saved = self._save(Path(HydraConfig.get().runtime.output_dir), json.dumps(state))
            report(state["sum"], step=step, total_steps=25, checkpoint=saved)
        return float(state["sum"])


def sweep_summing(folder: Path, task: Summing, *overrides: str) -> optuna.Study:
    """Sweep it over x in this process, without trial 0 that never pauses, and check its values."""
    given = ("x=range(1,10)", *PAUSING, "hydra.sweeper.n_trials=9", "hydra.sweeper.baseline=false", *overrides)
    sweep_here(folder, task, "x: 1\n", *given)
    study = load_app_study(folder / "sweep")
    for trial in study.trials:
        total, sums = 0.0, []
        for step in range(1, 26):
            total += trial.params["x"] / step
            sums.append((step, total))
        curve = read_curve(folder / "sweep" / str(trial.number))
        assert curve == sums[: len(curve)]
        assert trial.state != TrialState.COMPLETE or trial.value == total
    return study


def save_in_trial(folder: Path, text: str) -> Path:
    path = folder / "state.json"
    path.write_text(text)
    return path


def test_the_best_third_of_each_rung_is_continued(tmp_path: Path) -> None:
    task = Summing(save_in_trial)
    study = sweep_summing(tmp_path, task)
    best = min(study.trials, key=lambda trial: trial.params["x"])
    assert best.state == TrialState.COMPLETE
    assert [first for number, first in task.starts if number == best.number] == [1, 2, 4, 10]  # after 4, 12 and 36%
    assert len([first for _, first in task.starts if first == 10]) < 9


def test_a_trial_that_is_stopped_at_its_last_step_completes(tmp_path: Path) -> None:
    def save_and_stop(folder: Path, text: str) -> Path:
        if json.loads(text)["step"] == 25:
            signal.raise_signal(signal.SIGINT)
        return save_in_trial(folder, text)

    with pytest.raises((RunFailedError, KeyboardInterrupt)):
        sweep_summing(tmp_path, Summing(save_and_stop))
    assert len(load_app_study(tmp_path / "sweep").get_trials(states=(TrialState.COMPLETE,))) == 1
    study = sweep_summing(tmp_path, Summing(save_in_trial))
    assert len(study.trials) == 9
    assert all("retry_of" not in trial.user_attrs for trial in study.trials)


def test_without_an_existing_checkpoint_trials_are_pruned_and_a_note_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Summing(lambda folder, text: folder / "unsaved.json")
    study = sweep_summing(tmp_path, task)
    assert not study.get_trials(states=(TrialState.WAITING,))
    assert study.get_trials(states=(TrialState.PRUNED,))
    assert len(task.starts) == 9
    out, err = capsys.readouterr()
    assert out.count("unsaved.json: does not exist, so it is ignored; save it before the report") == 1
    assert err.count("unsaved.json: does not exist") == 9


def test_a_file_that_another_trial_has_written_is_not_continued_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_summing(tmp_path, task := Summing(lambda folder, text: save_in_trial(tmp_path, text)))
    assert [first for _, first in task.starts].count(1) > 9
    note = "state.json: was changed, so the trial cannot continue; save each trial in a folder of its own"
    assert note in capsys.readouterr().out


def test_a_trial_whose_checkpoint_was_deleted_starts_over(tmp_path: Path) -> None:
    def save_and_delete_others(folder: Path, text: str) -> Path:
        for path in folder.parent.glob("*/state.json"):
            path.unlink()
        return save_in_trial(folder, text)

    task = Summing(save_and_delete_others)
    study = sweep_summing(tmp_path, task)
    assert [first for _, first in task.starts].count(1) > 9
    assert study.get_trials(states=(TrialState.COMPLETE,))


@pytest.mark.slow
def test_mlflow_has_one_run_of_a_trial_with_one_curve(tmp_path: Path) -> None:
    from mlflow import MlflowClient  # takes seconds

    sweep = write_pausing_app(tmp_path)
    arguments = (*SWEEP, "hydra.sweeper.mlflow=true", "seconds=0.7")
    process = start_app(tmp_path, *arguments)
    kill_in_continued_trial(process, sweep)
    assert process.wait(200) == 0, (tmp_path / "sweep.log").read_text()
    assert "incomplete" not in (tmp_path / "sweep.log").read_text()
    store = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = store.search_runs([store.get_experiment_by_name("app").experiment_id])
    trials = {run.data.tags["trial"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(trials) == len(runs) - 1 == 9
    for trial in load_app_study(sweep).trials:
        run = trials[str(trial.number)]
        points = store.get_metric_history(run.info.run_id, "value")
        assert [(point.step, point.value) for point in points] == read_curve(sweep / str(trial.number))
        is_complete = trial.state == TrialState.COMPLETE
        assert run.info.status == ("FINISHED" if is_complete else "SCHEDULED")
        assert run.data.tags["status"] == ("completed" if is_complete else "paused")
