"""Trials and sweep summaries read from real studies."""

import math

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from harness.sweep.results.result_files import optimization_results, summary_to_json
from harness.sweep.results.summary import (
    count_paused,
    describe_total_failure,
    find_baseline,
    find_best_trials,
    summarize_trials,
)
from tests.sweep.studies import (
    add_every_outcome,
    add_paused_trials,
    ask_trial,
    complete_outside_trial,
    complete_trial,
    diverge_trial,
    fail_trial,
    new_study,
    pause_trial,
    promote_trial,
    summarize,
)


def test_only_a_study_without_any_result_is_a_total_failure() -> None:
    study = new_study()
    assert describe_total_failure(summarize_trials(study)) == ""
    for _ in range(2):
        fail_trial(study, ask_trial(study), "failed", "out of memory")
    diverge_trial(study, ask_trial(study))
    assert describe_total_failure(summarize_trials(study)) == "no trial has a result: 2 failed, 1 diverged"
    running = ask_trial(study)
    assert describe_total_failure(summarize_trials(study)) == ""
    complete_trial(study, running)
    assert describe_total_failure(summarize_trials(study)) == ""


def test_trial_statuses_and_fields(tmp_path) -> None:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    trials = summarize_trials(add_every_outcome(new_study(storage=storage)))
    statuses = ["completed", "completed", "pruned", "diverged", "failed", "completed", "failed", "running"]
    assert [trial.status for trial in trials] == statuses
    assert [trial.number for trial in trials] == list(range(8))
    assert [trial.percent_done for trial in trials] == [100, 100, 50, 20, 0, 100, 0, 50]
    assert [len(trial.values) for trial in trials] == [1, 1, 1, 0, 0, 1, 0, 1]
    assert [trial.reason for trial in trials][4:7] == ["its worker died", "", "out of memory"]
    assert [trial.retry_of for trial in trials] == [None] * 5 + [4, None, None]
    assert trials[5].retry_of == 4
    assert trials[5].params == trials[4].params == {"optimizer.lr": 5e-3, "lora.rank": 16, "loop.grad_clip": 2.0}
    assert trials[7].values == (4.5,)
    assert trials[7].seconds is None
    assert (trials[1].tokens, trials[1].seconds, trials[1].best_step, trials[1].folder) == (1000, 10.0, 90, "1")


def test_interrupted_and_queued_are_not_failures() -> None:
    study = new_study()
    fail_trial(study, ask_trial(study), "interrupted", "stopped by SIGINT")
    study.enqueue_trial({"optimizer.lr": 1e-2})
    assert [trial.status for trial in summarize_trials(study)] == ["interrupted", "queued"]


def test_recorded_divergence_overrides_pruned_state() -> None:
    study = new_study()
    trial = ask_trial(study)
    trial.report(4.0, 50)
    trial.set_user_attr("result", {"status": "diverged", "reason": "the loss is nan"})
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert summarize_trials(study)[0].status == "diverged"
    assert summarize_trials(study)[0].values == ()


def test_summary_counts_and_costs() -> None:
    summary = summarize(add_every_outcome(new_study()), 24)
    assert {status: size for status, size in summary.counts.items() if size} == {
        "completed": 3, "pruned": 1, "diverged": 1, "failed": 2, "running": 1,
    }  # fmt: skip
    assert summary.best_trial.number == 1
    assert summary.n_measured == 5  # measured: neither the failed ones nor the running one
    assert summary.tokens == 3 * 1000 + 500 + 200 + 1000
    assert summary.baseline.number == 0
    assert summary.importances == {}
    assert summary.idle_params == ()


def test_best_trial_matches_optuna_despite_diverged_trials() -> None:
    study = add_every_outcome(new_study())
    assert find_best_trials(summarize_trials(study))[0].number == study.best_trial.number


def test_earliest_of_equal_trials_is_best() -> None:
    study = new_study()
    for value in (3.5, 3.2, 3.2):
        complete_trial(study, ask_trial(study), value)
    assert [trial.number for trial in find_best_trials(summarize_trials(study))] == [1]


def test_pareto_front_matches_optuna() -> None:
    study = new_study(("best_val_loss", "tokens"))
    for value, tokens in ((3.5, 900), (3.2, 2000), (3.2, 1000), (4.0, 100), (4.1, 100), (3.9, 900)):
        complete_trial(study, ask_trial(study), value, tokens)
    diverge_trial(study, ask_trial(study))
    fail_trial(study, ask_trial(study), "failed", "out of memory")
    ours = find_best_trials(summarize_trials(study))
    assert {trial.number for trial in ours} == {trial.number for trial in study.best_trials} == {0, 2, 3}
    assert [trial.number for trial in ours] == [2, 0, 3]
    complete_trial(study, ask_trial(study), math.inf, 1)
    assert find_best_trials(summarize_trials(study)) == ours
    summary = summarize(study, 10)
    assert summary.best_trial is None
    assert summary.best_command == ""


def test_best_trial_of_a_maximized_objective() -> None:
    study = new_study(["accuracy"], ["maximize"])
    for value in (0.5, 0.9, 0.7):
        complete_trial(study, ask_trial(study), value)
    summary = summarize(study, 3)
    assert (summary.best_trial.number, summary.best_trial.values) == (1, (0.9,))
    history = summary_to_json(summary, "completed")["history"]
    assert [row["sweep/best_accuracy"] for _, row, _ in history] == [0.5, 0.9, 0.9]
    assert optimization_results(study)["best_value"] == 0.9


def test_pareto_front_of_mixed_directions_matches_optuna() -> None:
    study = new_study(["loss", "accuracy"], ["minimize", "maximize"])
    for loss, accuracy in ((3.5, 0.9), (3.2, 0.8), (3.2, 0.7), (4.0, 0.95), (4.1, 0.2)):
        complete_trial(study, ask_trial(study), loss, accuracy)
    ours = find_best_trials(summarize_trials(study))
    assert {trial.number for trial in ours} == {trial.number for trial in study.best_trials} == {0, 1, 3}


def test_baseline_outside_space_can_be_best() -> None:
    study = new_study()
    complete_outside_trial(study, 2.5, optimizer="adamw", **{"optimizer.lr": 1.0})
    complete_trial(study, ask_trial(study))
    summary = summarize(study, 2, ["loop.max_steps=120"])
    assert summary.best_trial == summary.baseline
    assert summary.best_trial.params == {"optimizer": "adamw", "optimizer.lr": 1.0}
    assert summary.boundary_hits == ()
    assert summary.best_command == "python run.py optimizer=adamw loop.max_steps=120 optimizer.lr=1.0"


def test_baseline_is_the_completed_attempt() -> None:
    study = new_study()
    fail_trial(study, ask_trial(study, lr=1e-3, baseline=True))
    complete_trial(study, ask_trial(study, lr=1e-3, baseline=True, retry_of=0), 3.7)
    assert find_baseline(summarize_trials(study)).number == 1


def test_paused_trials_wait_and_are_measured() -> None:
    study = add_paused_trials(new_study())
    summary = summarize(study, 200, runs=8)
    assert {status: count for status, count in summary.counts.items() if count} == {
        "completed": 2, "paused": 27, "interrupted": 1, "running": 1,
    }  # fmt: skip
    assert (summary.n_completed, summary.n_measured) == (2, 29)
    assert summary.best_trial is not None
    assert summary.best_trial.number == 30
    assert count_paused(summary.trials) == {4: 19, 12: 7, 36: 1}
    assert summary.runs_used == pytest.approx(2 + 19 * 0.04 + 7 * 0.12 + 0.36 + 0.08 + 0.04)
    paused, interrupted, running = summary.trials[29], summary.trials[12], summary.trials[21]
    assert (paused.status, paused.values, paused.percent_done, paused.seconds) == ("paused", (3.05,), 36, 3.6)
    assert [(one.start, one.target, one.reason) for one in paused.promotions] == [(4, 12, "rank"), (12, 36, "rank")]
    assert [one.reason for one in interrupted.promotions] == ["projection"]
    assert (interrupted.reason, running.reason) == ("after 8% of the run", "")
    assert (running.percent_done, running.target, running.tokens) == (4, 12, 40)
    assert not any(trial.is_over for trial in (paused, interrupted, running))
    assert [trial.n_segments for trial in (paused, interrupted, running, summary.trials[30])] == [3, 1, 1, 4]


def test_a_study_with_paused_trials_is_no_total_failure() -> None:
    study = new_study()
    diverge_trial(study, ask_trial(study))
    pause_trial(study, ask_trial(study), 4)
    assert describe_total_failure(summarize_trials(study)) == ""
    fail_trial(study, promote_trial(study, 1, 12))
    assert describe_total_failure(summarize_trials(study)) == "no trial has a result: 1 failed, 1 diverged"


def test_promotions_of_another_form_are_ignored() -> None:
    study = new_study()
    trial = ask_trial(study)
    trial.set_user_attr("promotions", [3, {"start": 4}, {"start": 4, "target": 12, "reason": "rank"}])
    complete_trial(study, trial)
    assert [one.target for one in summarize_trials(study)[0].promotions] == [12]
