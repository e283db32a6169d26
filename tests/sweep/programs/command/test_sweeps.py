"""Whole sweeps of scripts that know nothing of sweeps: pruned, killed, resumed, stopped, limited."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from harness import cli
from harness.importers.named_values import value_sources
from harness.sweep.study.setup import open_study
from harness.sweep.study.trial_attrs import BASELINE
from tests.sweep.programs.command.sweeps import (
    AlwaysPrune,
    copy_script,
    count_first_attempts,
    load_trials,
    read_log,
    read_record,
    read_request,
    run_sweep,
    run_trial,
    start_sweep,
    sweep_folder,
    wait_for,
)

PYTHON = f"{sys.executable} -S"
SCRIPTS = {
    "train.py": ("train", f"-- {PYTHON} train.py --lr 'log(1e-5,1e-1)' --rank 8,16,32 --max_steps 20"),
    "train.sh": ("train", "--env MOMENTUM='interval(0,0.9)' -- ./train.sh 'log(1e-4,0.5)' 20"),
    "rewriting.py": (
        "rewriting",
        f"--read '{{out}}/trainer_state.json' -- {PYTHON} rewriting.py --learning_rate 'log(1e-5,1e-1)'"
        " --output_dir {out}",
    ),
}
TRAINER = f"--read '{{out}}/trainer_state.json' -- {sys.executable} trainer.py --learning_rate 'log(1e-6,1e-1)'"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def kill_in_the_middle(line: str, study: str, number: int) -> None:
    """Kill the main process of a sweep with SIGKILL while the program of this trial runs, and wait until all ended."""
    sweep = start_sweep(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = sweep_folder(study) / str(number) / "output.log"
    wait_for(lambda: log.exists() and log.stat().st_size)
    family = psutil.Process(sweep.pid).children(recursive=True)
    assert len(family) >= 3  # worker, supervisor, program
    sweep.kill()
    sweep.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def check_pruned_and_resumed(study: str, n_trials: int) -> None:
    """Check that a sweep that was killed has exactly its trials, of which some were ended early by the pruner."""
    trials = load_trials(study)
    assert count_first_attempts(trials) == n_trials
    assert sum(trial.state == TrialState.FAIL for trial in trials) == 1  # the killed attempt
    completed = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = [trial.number for trial in trials if trial.state == TrialState.PRUNED]
    assert len(completed) + len(pruned) == n_trials
    assert pruned
    whole = min(len(read_log(study, number)) for number in completed)
    assert max(len(read_log(study, number)) for number in pruned) < whole


@pytest.mark.parametrize("script", ["train.py", pytest.param("train.sh", marks=pytest.mark.slow)])
def test_scripts_that_print_are_pruned_killed_and_resumed(script: str, capsys) -> None:
    study, line = SCRIPTS[script]
    copy_script(script)
    kill_in_the_middle(f"--n-trials 5 {line}", study, 2)
    assert run_sweep(f"--json --n-trials 7 {line}") == 0
    check_pruned_and_resumed(study, 7)
    printed = capsys.readouterr()
    check_document(json.loads(printed.out), printed.err)  # nothing else is there, though trials were printed


def check_document(document: dict[str, Any], printed: str) -> None:
    """Check what --json prints against what is printed for people."""
    assert set(document) == {
        "status", "reason", "folder", "study", "objectives", "best", "baseline", "counts", "seconds", "trials",
    }  # fmt: skip
    assert (document["status"], document["reason"], document["objectives"]) == ("completed", "", {"loss": "minimize"})
    assert document["counts"]["interrupted"] == 1
    [best] = document["best"]
    assert set(best) == {
        "number", "status", "reason", "values", "params", "percent_done", "promotions", "seconds", "is_baseline",
        "prior", "retry_of", "folder", "command",
    }  # fmt: skip
    assert document["trials"][best["number"]] == {key: value for key, value in best.items() if key != "command"}
    completed = [trial for trial in document["trials"] if trial["status"] == "completed"]
    assert best["values"] == min(trial["values"] for trial in completed)
    assert document["baseline"] is None or document["baseline"]["number"] == 0
    assert f"  {best['command']}\n" in printed
    for trial in document["trials"]:
        for value in trial["params"].values():
            assert value == float(f"{value:.6g}")  # the command has what was run, to the digit


def test_a_shell_script_with_awk_is_read_and_pruned() -> None:
    copy_script("train.sh")
    line, values = f"--study t {SCRIPTS['train.sh'][1]}", {"arg1": 0.1, "MOMENTUM": 0.0}
    done = run_trial(line, values)
    assert (done.status, done.best_step) == ("completed", 20)
    assert done.values == pytest.approx((9 * 0.8**40,), rel=1e-3)
    assert run_trial(line, values, number=1, pruner=AlwaysPrune()).status == "pruned"
    assert len(read_log("t", 1)) < len(read_log("t", 0))


def test_a_file_that_a_script_rewrites_is_read_while_it_runs() -> None:
    copy_script("rewriting.py")
    study, line = SCRIPTS["rewriting.py"]
    done = run_trial(line, {"learning_rate": 2e-3})
    assert (done.status, done.values, done.best_step) == ("completed", pytest.approx((1.15,)), 20)
    pruned = run_trial(line, {"learning_rate": 2e-3}, number=1, pruner=AlwaysPrune())
    assert pruned.status == "pruned"
    assert pruned.fraction_done < 1
    rows = [entry for entry in read_record(study) if entry["kind"] == "metrics"]
    for name in ("val/loss", "train/loss"):  # of one step, they may have been read one after the other
        assert [row["step"] for row in rows if name in row["metrics"]] == list(range(1, 21))


def test_what_a_slow_reader_has_not_read_is_recorded_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_sources, "WAIT_FACTOR", 1e9)  # as if each read took long: the file is read once
    copy_script("rewriting.py")
    study, line = SCRIPTS["rewriting.py"]
    assert run_trial(line, {"learning_rate": 2e-3}).status == "completed"
    rows = [entry for entry in read_record(study) if entry["kind"] == "metrics"]
    for name in ("val/loss", "train/loss"):
        assert [row["step"] for row in rows if name in row["metrics"]] == list(range(1, 21))


@pytest.mark.slow
def test_a_rewritten_file_is_pruned_killed_and_resumed() -> None:
    """The program prints nothing, so the length of its log says nothing: its file ends early."""
    study, line = SCRIPTS["rewriting.py"]
    copy_script("rewriting.py")
    kill_in_the_middle(f"--n-trials 8 {line}", study, 2)
    assert run_sweep(f"--n-trials 8 {line}") == 0
    trials = load_trials(study)
    assert count_first_attempts(trials) == 8
    for trial in trials:
        text = (sweep_folder(study) / str(trial.number) / "trainer_state.json").read_text()
        is_whole = text.endswith("}") and json.loads(text)["global_step"] == 20  # a killed program wrote half of it
        assert is_whole is (trial.state == TrialState.COMPLETE)
    assert sum(trial.state == TrialState.PRUNED for trial in trials) >= 1


@pytest.mark.slow
def test_a_real_trainer_is_pruned_killed_and_resumed() -> None:
    copy_script("trainer.py")
    line = f"{TRAINER} --output_dir {{out}}"
    kill_in_the_middle(f"--n-trials 6 {line}", "trainer", 2)
    assert run_sweep(f"--n-trials 6 {line}") == 0
    check_pruned_and_resumed("trainer", 6)


def test_ctrl_c_prints_the_document_too() -> None:
    study, line = SCRIPTS["train.py"]
    copy_script("train.py")
    sweep = start_sweep(f"--json --n-trials 3 {line}", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: (sweep_folder(study) / "1" / "output.log").exists())
    family = psutil.Process(sweep.pid).children(recursive=True)
    sweep.send_signal(signal.SIGINT)
    out, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    document = json.loads(out)  # nothing else is there, though trials were printed
    assert (document["status"], document["reason"]) == ("interrupted", "stopped by a signal")
    assert document["counts"] == {"completed": 1, "interrupted": 1, "queued": 1}
    assert "trial 0 · completed" in err
    assert "\nstopping the trials; press Ctrl-C again to kill them\n" in err
    assert err.endswith("interrupted: stopped by a signal; run the same command to resume\n")
    assert not psutil.wait_procs(family, timeout=10)[1]


def test_another_search_is_refused_in_the_words_of_the_command_line(capsys) -> None:
    Path("t.sh").write_text("echo val_loss: ${1:-2}")
    line = "--baseline arg1=0.5 -- sh t.sh 'interval(0,1)'"
    study = open_study(read_request(line)).study
    assert [BASELINE in trial.user_attrs for trial in study.trials] == [True]
    for changed, problem in {
        "-- sh t.sh 'log(1e-3,1)'": "  space arg1: interval(0.0,1.0) -> log(0.001,1.0)\n",
        "-- sh t.sh 'interval(0,1)' 3": "  config command: sh t.sh {arg1} -> sh t.sh {arg1} 3\n",
        "--env A=1 -- sh t.sh 'interval(0,1)'": "  config variable A: nothing -> 1\n",
        "--maximize -- sh t.sh 'interval(0,1)'": "  sweep objectives: loss -> loss (maximized)\n",
        "--best -- sh t.sh 'interval(0,1)'": "  config metric: final validation loss in the output -> best validation",
    }.items():
        assert run_sweep(f"--n-trials 4 {changed}") == 2
        message = capsys.readouterr().err
        assert message.startswith("study t exists with other settings:\n" + problem)
        assert message.endswith("\nstart a new study with --study NAME\n")
    assert run_sweep("--dry-run --n-trials 4 -- sh t.sh 'interval(0.0,1.0)'") == 0  # the same range


def test_the_first_trial_without_the_metric_ends_a_sweep_which_another_metric_continues(capsys) -> None:
    Path("t.sh").write_text("echo acc: 0.5; echo acc: 0.25")
    assert run_sweep("--n-trials 3 --metric acuracy -- sh t.sh --lr 'interval(0,1)'") == 1
    assert capsys.readouterr().err == (
        "failed: trial 0: --metric: no metric 'acuracy' in the output; found acc (2 values): use --metric acc; "
        "fix that, then run the same command to resume\n"
    )
    assert run_sweep("--n-trials 3 --metric acuracy --maximize -- sh t.sh --lr 'interval(0,1)'") == 2
    assert run_sweep("--n-trials 3 --metric acc -- sh t.sh --lr 'interval(0,2)'") == 2
    assert run_sweep("--n-trials 3 --metric aacc -- sh t.sh --lr 'interval(0,1)'") == 1
    assert run_sweep("--n-trials 3 --metric acc --best -- sh t.sh --lr 'interval(0,1)'") == 0
    trials = load_trials("t")
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 3
    assert [BASELINE in trial.user_attrs for trial in trials] == [True] * 3 + [False] * 2
    assert count_first_attempts(trials) == 3
    assert run_sweep("--n-trials 4 --metric val_acc --best -- sh t.sh --lr 'interval(0,1)'") == 2  # it has results


def test_failures_end_a_sweep(capsys) -> None:
    Path("t.sh").write_text("echo no sweep.n_trials in sweep.yaml for sampler=ddim; exit 1")
    assert run_sweep("--n-trials 9 --max-failures 2 -- sh t.sh 'interval(0,1)'") == 1
    printed = capsys.readouterr()
    reason = "exit status 1; its last line: no sweep.n_trials in sweep.yaml for sampler=ddim"
    assert f"  trials 0, 1 failed: {reason}\n" in printed.out
    assert printed.err == (
        f"failed: 2 trials in a row failed (trials 0, 1: {reason}); fix the cause and choose another --study\n"
    )


@pytest.mark.parametrize(
    ("options", "max_failures"),
    [("", 3), ("--max-failure-rate 0.5", None), ("--max-failure-rate 0.5 --max-failures 3", 3)],
)
def test_a_failure_rate_alone_says_how_many_may_fail(options: str, max_failures: int | None) -> None:
    assert read_request(f"{options} -- sh t.sh 'interval(0,1)'").budget.max_failures == max_failures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "reason", "n_trials"),
    [("--patience 2", "no better value in 2 trials", 3), ("--max-seconds 6", "the time budget is used up", 1)],
)
def test_budgets_end_a_sweep(option: str, reason: str, n_trials: int, capsys) -> None:
    Path("t.sh").write_text("sleep 6; echo val_loss: 1" if "seconds" in option else "echo val_loss: 1")
    assert run_sweep(f"--n-trials 9 {option} -- sh t.sh 'interval(0,1)'") == 0
    assert f"No more trials: {reason}." in capsys.readouterr().out
    assert len(load_trials("t")) == n_trials


def test_a_sweep_without_time_for_a_trial_fails(capsys) -> None:
    Path("t.sh").write_text("echo val_loss: 1")
    assert run_sweep("--n-trials 9 --max-seconds 0.001 -- sh t.sh 'interval(0,1)'") == 1
    assert capsys.readouterr().err == ("failed: no trial was run: the time budget is used up; raise --max-seconds\n")


@pytest.mark.slow
def test_mlflow_has_the_sweep_and_its_trials(tmp_path: Path) -> None:
    copy_script("train.py")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    line = f"--n-trials 3 --mlflow-uri {store} -- {PYTHON} train.py --lr 'log(1e-4,1e-2)' --max_steps 10"
    assert cli.main(["sweep", *shlex.split(line)]) == 0
    client = MlflowClient(store)
    [experiment] = [one for one in client.search_experiments() if one.name == "train"]
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    trials = sorted((run for run in runs if run is not parent), key=lambda run: int(run.data.tags["trial"]))
    assert [run.data.tags["mlflow.parentRunId"] for run in trials] == [parent.info.run_id] * 3
    assert parent.data.tags["command"] == shlex.join(["plateau", "sweep", *shlex.split(line)])
    assert parent.data.params["metric"] == "final validation loss in the output"
    assert parent.data.metrics["sweep/best_loss"] == min(run.data.metrics["loss"] for run in trials)
    for run, trial in zip(trials, load_trials("train"), strict=True):
        assert run.info.status == "FINISHED"
        assert run.data.params["max_steps"] == "10"
        assert run.data.params.get("lr") == (str(trial.params["lr"]) if trial.params else None)
        curve = client.get_metric_history(run.info.run_id, "val/loss")
        assert [point.step for point in curve] == [2, 4, 6, 8, 10]
        assert "output.log" in [file.path for file in client.list_artifacts(run.info.run_id)]
