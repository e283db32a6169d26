"""Confirmations of real sweeps of a tiny model: from the study to the verdict, interrupted and resumed."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.evidence.confirm.confirmation import run_confirmation
from harness.evidence.confirm.from_overrides import name_configs, plan_override_confirmation
from harness.evidence.confirm.from_study import ConfirmOptions, plan_study_confirmation
from harness.evidence.confirm.plan import Confirmation
from harness.evidence.confirm.result import CONFIRM_FILE
from harness.sweep.programs import make_trial_runner
from harness.sweep.programs.hydra_app.sweep import InProcessWorkers
from harness.sweep.request import SweepRequest
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.sweeper import run_study
from harness.sweep.swept_study import SweptStudy, load_swept_study
from harness.sweep.workers.worker import WorkerSpec
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA, read_tiny_request

TINY_RUN = [one for one in TINY_WITHOUT_LORA if not one.startswith(("hydra", "preflight", "pruner")) and "(" not in one]


def make_workers(request: SweepRequest, spec: WorkerSpec, queue: TrialQueue) -> InProcessWorkers:
    """Return a worker in this process, which needs no seconds to import."""
    return InProcessWorkers(spec, make_trial_runner, lambda: False)


def sweep_tiny_model(folder: Path, *overrides: str) -> SweptStudy:
    """Run a sweep of three trials."""
    request = read_tiny_request(
        *TINY_WITHOUT_LORA, f"output_dir={folder}", "sweep.study=s", "sweep.n_trials=3", *overrides
    )
    assert run_study(request, make_workers).end.status == "completed"
    return load_swept_study("s", folder)


def plan_confirmation(study: SweptStudy, **options: object) -> Confirmation:
    return plan_study_confirmation(study, ConfirmOptions(**{"top": 1, "seeds": 3, **options}))  # type: ignore[arg-type]


def read_result(folder: Path) -> dict[str, object]:
    return json.loads((folder / CONFIRM_FILE).read_text())


def test_a_sweep_is_confirmed_on_seeds_it_did_not_use(tmp_path: Path) -> None:
    study = sweep_tiny_model(tmp_path)
    confirmation = plan_confirmation(study)
    outcome = run_confirmation(confirmation, make_workers)
    result, best = outcome.result, study.ranking[0]
    assert (result.status, result.is_decided) == ("decided", True)
    assert {(run.config, run.seed) for run in result.runs} == {
        (name, seed) for name in ("baseline", f"trial {best.number}") for seed in confirmation.plan.seeds
    }
    assert 1337 not in confirmation.plan.seeds
    gap = result.list_gaps()[1]
    assert gap.selected == best.values[0]
    written = read_result(confirmation.folder)
    assert [config["name"] for config in written["configs"]] == list(confirmation.plan.configs)  # type: ignore[attr-defined]
    losses = {run.values["best_val_loss"] for run in result.runs}
    assert len(losses) == 6  # the seed changes the run

    again = run_confirmation(confirmation, make_workers)  # nothing is run twice
    assert [run.values for run in again.result.runs] == [run.values for run in result.runs]
    with pytest.raises(ConfigError, match=r"begun with another plan[^$]*margin"):
        run_confirmation(plan_confirmation(study, margin=0.1), make_workers)


def test_a_budget_ends_a_confirmation_without_a_verdict(tmp_path: Path) -> None:
    confirmation = plan_confirmation(sweep_tiny_model(tmp_path), max_tokens=1)
    outcome = run_confirmation(confirmation, make_workers)
    assert outcome.result.status == "out of budget"
    assert not outcome.result.evaluation.verdicts
    assert [run.status for run in outcome.result.runs].count("completed") == 1
    resumed = replace(confirmation, runs=replace(confirmation.runs, max_tokens=None))
    assert run_confirmation(resumed, make_workers).result.status == "decided"


def test_runs_that_failed_are_made_again_by_the_next_command(tmp_path: Path) -> None:
    confirmation = plan_confirmation(sweep_tiny_model(tmp_path))
    locked = confirmation.folder / "0"  # the first run cannot write its folder
    confirmation.folder.mkdir(parents=True)
    locked.write_text("")
    first = run_confirmation(confirmation, make_workers)
    assert first.result.evaluation.failure.startswith("baseline: 1 of 3 runs failed")
    locked.unlink()
    second = run_confirmation(confirmation, make_workers)
    assert second.result.status == "decided"
    assert [run.status for run in second.result.runs] == ["completed"] * 6


def test_a_sweep_without_a_better_trial_has_nothing_to_confirm(tmp_path: Path) -> None:
    study = sweep_tiny_model(tmp_path, "sweep.n_trials=1")
    with pytest.raises(ConfigError, match="nothing to compare"):
        plan_confirmation(study)


def test_overrides_are_confirmed_as_they_would_be_run(tmp_path: Path) -> None:
    tiny = [*TINY_RUN, f"output_dir={tmp_path}"]
    overrides = [[*tiny, "optimizer=sgd", "optimizer.lr=1e-4"], [*tiny, "optimizer=adamw", "optimizer.lr=3e-2"]]
    confirmation = plan_override_confirmation(
        dict(zip(name_configs(2), overrides, strict=True)), ConfirmOptions(seeds=3)
    )
    result = run_confirmation(confirmation, make_workers).result
    assert result.evaluation.verdicts["candidate"].status == "better"
    assert "optimizer=adamw" in result.commands["candidate"]


@pytest.mark.parametrize(
    ("candidate", "problem"),
    [
        ("optimizer.lrr=1e-3", "no key 'optimizer.lrr'"),
        ("optimizer=adamv", "adamv"),
        ("data.sequence_length=16", "data.sequence_length: 32 for baseline and 16 for candidate"),
        ("task.ignored=1", "task.ignored"),
        ("sweep.n_trials=3", "only a sweep reads it"),
        ("optimizer.lr=-1", "optimizer"),
        ("~schedule.warmup_ratio", "deletes a key"),
    ],
)
def test_overrides_that_cannot_be_compared_are_refused(tmp_path: Path, candidate: str, problem: str) -> None:
    tiny = [*TINY_RUN, f"output_dir={tmp_path}"]
    with pytest.raises(ConfigError, match=problem):
        plan_override_confirmation({"baseline": tiny, "candidate": [*tiny, candidate]}, ConfirmOptions(seeds=3))
    assert not (tmp_path / "sweeps").exists()


def test_seeds_that_can_show_nothing_are_refused_before_any_run(tmp_path: Path) -> None:
    overrides = [[*TINY_RUN, f"output_dir={tmp_path}", f"optimizer.lr={lr}"] for lr in (1e-4, 1e-3, 1e-2)]
    with pytest.raises(ConfigError, match=r"3 seeds can show nothing for 2 candidates.*--seeds 4"):
        plan_override_confirmation(dict(zip(name_configs(3), overrides, strict=True)), ConfirmOptions(seeds=3))
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.slow
@pytest.mark.parametrize("delay", [3.0, 6.0, 9.0])
def test_a_killed_confirmation_makes_every_run_once(tmp_path: Path, delay: float) -> None:
    sweep_tiny_model(tmp_path, "loop.max_steps=200")
    command = [
        sys.executable,
        "-m",
        "harness",
        "confirm",
        "s",
        "--output-dir",
        str(tmp_path),
        "--seeds",
        "4",
        "--top",
        "2",
    ]
    with subprocess.Popen(command, process_group=0) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    configs = read_result(tmp_path / "sweeps" / "s" / "confirm")["configs"]
    runs = [(config["name"], run["seed"], run["status"]) for config in configs for run in config["runs"]]  # type: ignore[attr-defined]
    assert len(runs) == len(set(runs)) == 12
    assert {status for _, _, status in runs} == {"completed"}


def test_another_plan_is_free_as_long_as_no_loss_was_seen(tmp_path: Path) -> None:
    """A first attempt with a wrong option may have made every run fail."""
    study = sweep_tiny_model(tmp_path)
    first = plan_confirmation(study, max_seconds=1e-6)
    assert run_confirmation(first, make_workers).result.status != "decided"
    second = plan_confirmation(study, seeds=4)
    assert run_confirmation(second, make_workers).result.status == "decided"
    assert (study.folder / "confirm-without-result-1").is_dir()


@pytest.mark.parametrize("margin", [-1.0, 0.0, float("nan")])
def test_margins_that_mean_nothing_are_refused_before_any_run(margin: float) -> None:
    with pytest.raises(ValueError, match="--margin"):
        ConfirmOptions(margin=margin)


def test_a_confirmation_is_no_sweep(tmp_path: Path) -> None:
    confirmation = plan_confirmation(sweep_tiny_model(tmp_path))
    run_confirmation(confirmation, make_workers)
    with pytest.raises(ConfigError, match="not a sweep"):
        load_swept_study(str(confirmation.folder), tmp_path)


def test_the_time_budget_is_that_of_the_command(tmp_path: Path) -> None:
    confirmation = plan_confirmation(sweep_tiny_model(tmp_path), seeds=6, max_seconds=1e-3)
    assert len(confirmation.plan.looks) > 1
    outcome = run_confirmation(confirmation, make_workers)
    assert outcome.result.status in ("out of budget", "failed")
    assert not any(run.status == "completed" for run in outcome.result.runs)
