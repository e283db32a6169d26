"""A worker on a full disk, whose trial is queued again, and one whose program reports steps."""

import errno
import io
import json
import shutil
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import Trial, TrialState

from harness.core.errors import ConfigError
from harness.run import runner
from harness.sweep import Pruned, report
from harness.sweep.programs.worker import main
from harness.sweep.reporting import receive_reports
from harness.sweep.study.pruning import TrialReporter
from harness.sweep.study.trial_attrs import LAST_STEP, RESULT, TrialResult
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.trial_runner import TrialJob
from harness.sweep.workers import worker
from harness.sweep.workers.worker import EXIT_OK, EXIT_SHORTAGE, run_trials
from harness.training.loop import Trainer
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA, make_worker_spec, read_tiny_request, start_study


def fail_without_space(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def run_worker(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    """Return the exit status of a worker, run in this process."""
    spec = make_worker_spec(read_tiny_request(*overrides))
    monkeypatch.setattr(worker.sys, "stdin", io.StringIO(json.dumps(asdict(spec)) + "\n"))
    monkeypatch.setattr(worker, "_exit_with_parent", lambda stdin: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_full_disk_interrupts_the_trial(places, monkeypatch, capsys) -> None:
    sweep = [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=3", "sweep.n_jobs=1"]
    queue = start_study(*sweep)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "run", fail_without_space)
        assert run_worker(monkeypatch, *sweep) == EXIT_SHORTAGE
    assert "no space left on" in capsys.readouterr().err
    interrupted = queue.study.trials[0]
    assert interrupted.state == TrialState.FAIL
    assert interrupted.user_attrs[RESULT]["status"] == "interrupted"
    assert [trial.state for trial in queue.study.trials[1:]] == [TrialState.WAITING]


def test_study_that_cannot_be_written_ends_the_worker(places, monkeypatch, capsys) -> None:
    sweep = [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=3", "sweep.n_jobs=1"]
    queue = start_study(*sweep)
    with monkeypatch.context() as patch:
        patch.setattr(worker.TrialQueue, "claim_trial", fail_without_space)
        assert run_worker(monkeypatch, *sweep) == EXIT_SHORTAGE
    assert [trial.state for trial in queue.study.trials] == [TrialState.WAITING]
    assert Path(queue.folder).exists()


def run_untold_trial(places: list[str], monkeypatch: pytest.MonkeyPatch) -> TrialQueue:
    """Run a trial whose worker ends before it tells the study, and return the queue of the study."""
    sweep = [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=1", "sweep.n_jobs=1"]
    queue = start_study(*sweep)
    with monkeypatch.context() as patch:
        patch.setattr(worker.TrialQueue, "finish_trial", fail_without_space)
        assert run_worker(monkeypatch, *sweep) == EXIT_SHORTAGE
    return queue


def test_signal_in_the_last_evaluation_of_a_trial_stops_the_worker_after_it(places, monkeypatch) -> None:
    evaluate = Trainer._evaluate_and_checkpoint

    def evaluate_under_a_signal(trainer: Trainer, grad_norm: float = 0.0) -> Any:
        if trainer.state.step == trainer.plan.total_steps:
            signal.raise_signal(signal.SIGINT)
        return evaluate(trainer, grad_norm)

    monkeypatch.setattr(Trainer, "_evaluate_and_checkpoint", evaluate_under_a_signal)
    sweep = [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=3", "sweep.n_jobs=1"]
    queue = start_study(*sweep)
    assert run_worker(monkeypatch, *sweep) == EXIT_OK
    assert [trial.state for trial in queue.study.trials] == [TrialState.COMPLETE]


def test_trial_whose_run_has_completed_is_completed_after_a_kill(places, monkeypatch) -> None:
    """The disk fills up, or the worker dies, between the end of the run and the message to the study."""
    queue = run_untold_trial(places, monkeypatch)
    assert [trial.state for trial in queue.study.trials] == [TrialState.RUNNING]
    assert queue.reap_dead_trials(is_leftover=True, is_only_sweep=True) == [0]
    [trial] = queue.study.trials
    assert trial.state == TrialState.COMPLETE
    assert [trial.value] == trial.user_attrs[RESULT]["values"]
    assert trial.user_attrs[RESULT]["fraction_done"] == 1
    assert not queue.has_more_trials()


def test_trial_killed_after_its_last_step_is_completed(places, monkeypatch) -> None:
    """Its record lacks the end, and the checkpoint of its last step proves that nothing else is missing."""
    queue = run_untold_trial(places, monkeypatch)
    record = queue.folder / "0" / "metrics.jsonl"
    *lines, end = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if '"metrics"' in line or '"start"' in line))
    assert queue.reap_dead_trials(is_leftover=True, is_only_sweep=True) == [0]
    [trial] = queue.study.trials
    assert trial.state == TrialState.COMPLETE
    assert trial.value == json.loads(end)["best_val_loss"]


@pytest.mark.parametrize("lines", [0, 3])
def test_trial_without_a_complete_record_is_queued_again(lines, places, monkeypatch) -> None:
    queue = run_untold_trial(places, monkeypatch)
    record = queue.folder / "0" / "metrics.jsonl"
    shutil.rmtree(queue.folder / "0" / "checkpoints")  # it proves that a run has taken its last step
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:lines]))
    queue.reap_dead_trials(is_leftover=True, is_only_sweep=True)
    assert [trial.state for trial in queue.study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_failed_trial_shows_no_password(places, monkeypatch, capsys) -> None:
    def fail_with_address(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("cannot read http://me:secret@host/x?token=secret")

    sweep = [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=1", "sweep.n_jobs=1"]
    queue = start_study(*sweep)
    monkeypatch.setattr(runner, "run", fail_with_address)
    run_worker(monkeypatch, *sweep)
    hidden = "RuntimeError: cannot read http://***@host/x?token=***"
    assert queue.study.trials[0].user_attrs[RESULT]["reason"] == hidden
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert hidden in printed
    assert "http://me" not in printed


@pytest.mark.parametrize("error", [ValueError("too large"), ConfigError("lr: not known")])
def test_failed_trial_has_the_time_that_it_took(error: Exception, places, monkeypatch, capsys) -> None:
    class FailingRunner(LoopRunner):
        def run_trial(self, *args: Any) -> TrialResult:
            time.sleep(0.01)
            raise error

    sweep = [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=1", "sweep.n_jobs=1"]
    queue = start_study(*sweep)
    run_trials(make_worker_spec(read_tiny_request(*sweep)), lambda spec, program: FailingRunner(), lambda: False)
    result = queue.study.trials[0].user_attrs[RESULT]
    assert result["status"] == "failed"
    assert 0.01 < result["seconds"] < 10


class LoopRunner:
    """Runs a loop of 10 epochs that does not say how many there are, and gets worse from trial to trial."""

    def extend_trial(self, trial: Trial) -> None: ...

    def run_trial(self, job: TrialJob, reporter: TrialReporter, should_stop: Any) -> TrialResult:
        def receive(value: float, step: int, total_steps: int | None, checkpoint: str | None) -> None:
            if reporter.report_step(value, step, total_steps) == "prune":
                raise Pruned(f"after {reporter.fraction_done:.0%} of the run")

        with receive_reports(receive):
            try:
                for epoch in range(1, 11):
                    report(job.number + 1 / epoch, step=epoch)
            except Pruned as error:
                return TrialResult("pruned", str(error), fraction_done=reporter.fraction_done)
        return TrialResult("completed", values=(job.number + 0.1,), fraction_done=1.0)


def test_a_program_of_unknown_length_is_pruned_once_a_trial_has_shown_it(places) -> None:
    sweep = [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=4", "sweep.baseline=false", "pruner=halving"]
    study = start_study(*sweep).study
    run_trials(make_worker_spec(read_tiny_request(*sweep)), lambda spec, program: LoopRunner(), lambda: False)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    assert [list(trial.intermediate_values) for trial in study.trials] == [list(range(10, 101, 10)), *[[10]] * 3]
    assert [trial.user_attrs.get(LAST_STEP) for trial in study.trials] == [10, None, None, None]
    assert study.trials[1].user_attrs[RESULT]["reason"] == "after 10% of the run"
