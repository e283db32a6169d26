"""Trial queue: claiming, finishing and requeuing trials, budgets, and what a resumed study proposes."""

import math
import re
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from optuna.trial import Trial, TrialState

from harness.core.errors import ConfigError
from harness.sweep.optuna_internals import start_waiting_trial
from harness.sweep.space.search_space import config_key
from harness.sweep.study.budget import Budget
from harness.sweep.study.liveness import this_process
from harness.sweep.study.pruning import TrialReporter
from harness.sweep.study.trial_attrs import BASELINE, FIXED_VALUES, RESULT, RETRIES, RETRY_OF, WORKER
from harness.sweep.study.trial_queue import TrialQueue
from tests.conftest import ROOT
from tests.sweep.tiny_sweeps import TINY, make_result, serve_trials, start_study

SAMPLERS = ["tpe", "random"]


def bowl_loss(trial: Trial) -> float:
    """Return a loss that is least at an LR of 1e-2 and depends a little on rank and warm-up."""
    params = {config_key(name): value for name, value in trial.params.items()}
    lr = math.log10(params.get("optimizer.lr", 1e-3))
    return 1 + (lr + 2) ** 2 + 0.01 * params.get("lora.rank", 8) + params.get("schedule.warmup_ratio", 0)


def trial_params(trials: list) -> list[dict]:
    return [dict(trial.params) for trial in trials]


@pytest.fixture
def overrides(places) -> list[str]:
    return [*TINY, *places, "sweep.n_trials=24"]


def dead_process() -> dict:
    """Return the identity of a process that has just died."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = {**this_process(), "pid": child.pid}
    child.kill()
    child.wait()
    return process


def test_the_first_trial_is_the_current_config(overrides) -> None:
    queue = start_study(*overrides, "optimizer.weight_decay=0.1")
    trial = queue.claim_trial()
    assert trial.user_attrs[BASELINE]
    assert trial.params == {
        "optimizer.lr": 1e-4, "lora.rank": 8, "loop.grad_clip": 1.0, "schedule.warmup_ratio": 0.05
    }  # fmt: skip


def test_a_current_config_outside_the_space_runs_but_is_hidden_from_the_sampler(overrides, capsys) -> None:
    arguments = [*overrides, "optimizer.lr=tag(log,interval(1e-2,1e-1))", "sweep.n_trials=14"]
    queue = start_study(*arguments)
    assert "optimizer.lr=0.0001" in capsys.readouterr().out
    trial = queue.claim_trial()
    assert trial.user_attrs[FIXED_VALUES]["optimizer.lr"] == 1e-4
    assert trial.params == {}
    queue.finish_trial(trial, make_result(loss=-100.0))
    later = trial_params(serve_trials(queue, bowl_loss))
    without = start_study(*arguments, "sweep.study=without", "sweep.baseline=false", "sweep.n_trials=13")
    assert len(later) == 13
    assert all(1e-2 <= point["optimizer.lr"] <= 1e-1 for point in later)
    assert len(trial_params(serve_trials(without, bowl_loss))) == 13


def test_enqueued_points_run_after_the_current_config(overrides) -> None:
    queue = start_study(*overrides, "sweep.enqueue=[{optimizer.lr: 0.01}, {lora.rank: 32, optimizer.lr: 0.02}]")
    _, first, second = serve_trials(queue, bowl_loss, 3)
    assert first.params["optimizer.lr"] == 0.01
    assert (second.params["optimizer.lr"], second.params["lora.rank"]) == (0.02, 32)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("{optimizer.lr: 5}", "optimizer.lr: 5 is outside tag(log,interval(0.0001,0.1))"),
        ("{lora.rank: 3}", "lora.rank: 3 is outside 2,4,8,16,32"),
        ("{lora.rnk: 4}", "lora.rnk: not searched by this sweep; did you mean 'lora.rank'?"),
    ],
)
def test_an_enqueued_point_is_checked_against_the_space(overrides, point, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        start_study(*overrides, f"sweep.enqueue=[{point}]")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_that_is_interrupted_often_proposes_the_trials_of_an_uninterrupted_one(sampler, overrides) -> None:
    arguments = [*overrides, f"hydra/sweeper/sampler={sampler}"]
    expected = trial_params(serve_trials(start_study(*arguments, "sweep.study=uninterrupted"), bowl_loss))
    for _ in range(6):
        queue = start_study(*arguments, "sweep.study=interrupted")  # a new process knows only what is stored
        queue.reap_dead_trials(is_leftover=True)
        serve_trials(queue, bowl_loss, 4)
        dying = queue.claim_trial()
        if dying is not None:
            dying.set_user_attr(WORKER, dead_process())
    queue.reap_dead_trials(is_leftover=True)
    serve_trials(queue, bowl_loss)
    trials = queue.study.trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == 24
    assert sum(trial.state == TrialState.FAIL for trial in trials) == sum(RETRY_OF in t.user_attrs for t in trials) > 3
    assert trial_params(complete) == expected


def test_a_trial_that_killed_two_workers_is_not_tried_again(overrides) -> None:
    queue = start_study(*overrides, "sweep.n_trials=2")
    for number in (0, 1):
        trial = queue.claim_trial()
        assert trial.number == number
        trial.set_user_attr(WORKER, dead_process())
        assert queue.reap_dead_trials(is_leftover=False) == [number]
    assert queue.study.trials[1].user_attrs[RETRIES] == 1
    assert queue.study.trials[1].params == queue.study.trials[0].params
    served = serve_trials(queue, bowl_loss)
    assert [trial.number for trial in served] == [2]
    assert RETRY_OF not in served[0].user_attrs


def test_a_retry_does_not_count_towards_n_trials(overrides) -> None:
    queue = start_study(*overrides, "sweep.n_trials=5")
    serve_trials(queue, bowl_loss, 2)
    lost = queue.claim_trial()
    queue.finish_trial(lost, make_result("interrupted"))
    serve_trials(queue, bowl_loss)
    states = [trial.state for trial in queue.study.trials]
    assert states == [*[TrialState.COMPLETE] * 2, TrialState.FAIL, *[TrialState.COMPLETE] * 3]
    assert queue.study.trials[3].params == queue.study.trials[2].params
    assert queue.claim_trial() is None


def test_failures_of_earlier_commands_do_not_count(overrides) -> None:
    queue = start_study(*overrides)
    for _ in range(3):
        queue.finish_trial(queue.claim_trial(), make_result("failed"))
    assert queue.claim_trial() is None
    queue.set_budget(Budget(9, started_at=time.time(), max_failures=3))
    assert queue.claim_trial() is not None


def test_a_retry_keeps_the_enqueued_params_that_were_not_yet_suggested(overrides) -> None:
    queue = start_study(*overrides, "sweep.enqueue=[{optimizer.lr: 0.02}]")
    serve_trials(queue, bowl_loss, 1)
    start_waiting_trial(
        queue.study, queue.study.trials[1], {WORKER: dead_process()}
    )  # its worker died before it suggested any value
    assert queue.reap_dead_trials(is_leftover=False) == [1]
    assert queue.claim_trial().params["optimizer.lr"] == 0.02


def test_workers_on_other_hosts_are_dead_only_if_this_is_the_only_sweep(overrides) -> None:
    queue = start_study(*overrides)
    queue.claim_trial().set_user_attr(WORKER, {**this_process(), "host": "another"})
    assert queue.reap_dead_trials(is_leftover=True) == []
    assert queue.reap_dead_trials(is_leftover=True, is_only_sweep=True) == [0]
    assert queue.claim_trial().user_attrs[RETRY_OF] == 0


PRUNERS = sorted(path.stem for path in (ROOT / "conf" / "pruner").glob("*.yaml"))
# Samplers notice only the pruners that hide trials from them (hyperband) or compare rungs (halving).
PAIRS = [
    *[("tpe", pruner) for pruner in PRUNERS],
    *[
        pytest.param(sampler, pruner, marks=pytest.mark.slow)
        for sampler in ("random", "cmaes", "qmc")
        for pruner in ("hyperband", "halving")
    ],
]


@pytest.mark.parametrize(("sampler", "pruner"), PAIRS)
def test_pruners_and_samplers_work_together(sampler, pruner, overrides) -> None:
    queue = start_study(*overrides, f"pruner={pruner}", f"hydra/sweeper/sampler={sampler}")
    for _ in range(8):
        trial = queue.claim_trial()
        report = TrialReporter(trial, 0.2).report_share
        stops = [report(bowl_loss(trial) + 1 - share, share) for share in (0.0, 0.2, 0.6, 1.0)]
        assert stops[0] == stops[-1] == "continue"  # never pruned before or after training
        status = "pruned" if "prune" in stops else "completed"
        queue.finish_trial(trial, make_result(status, loss=bowl_loss(trial)))
    assert len(queue.study.trials) == 8


def test_a_journal_whose_last_line_was_cut_off_is_repaired(overrides) -> None:
    queue = start_study(*overrides)
    serve_trials(queue, bowl_loss, 2)
    with (queue.folder / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code": 4, "worker_')
    serve_trials(start_study(*overrides), bowl_loss, 1)
    assert [trial.state for trial in start_study(*overrides).study.trials] == [TrialState.COMPLETE] * 3


def test_a_live_worker_keeps_its_trial(overrides) -> None:
    queue = start_study(*overrides)
    trial = queue.claim_trial()
    assert queue.reap_dead_trials(is_leftover=False) == []
    assert queue.study.trials[trial.number].state == TrialState.RUNNING


def test_a_reused_pid_is_not_taken_for_the_worker(overrides) -> None:
    queue = start_study(*overrides)
    trial = queue.claim_trial()
    trial.set_user_attr(WORKER, {**this_process(), "started_at": this_process()["started_at"] - 1000})
    assert queue.reap_dead_trials(is_leftover=False) == [trial.number]


def test_concurrent_queues_run_every_trial_once(overrides) -> None:
    arguments = [*overrides, "sweep.n_trials=40"]
    open_queues = [start_study(*arguments) for _ in range(4)]
    taken: list[int] = []

    def work(queue: TrialQueue) -> None:
        taken.extend(trial.number for trial in serve_trials(queue, bowl_loss))

    threads = [threading.Thread(target=work, args=(queue,)) for queue in open_queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))
    assert len({tuple(point.items()) for point in trial_params(open_queues[0].study.trials)}) == 40


def test_the_sampler_learns_from_diverged_and_pruned_trials_but_not_from_failed_ones(overrides) -> None:
    queue = start_study(*overrides, "sweep.n_trials=3", "sweep.baseline=false")
    first, second, third = (queue.claim_trial() for _ in range(3))
    first.report(2.0, 20)
    queue.finish_trial(first, make_result("diverged", fraction_done=0.5))
    second.report(2.0, 20)
    queue.finish_trial(second, make_result("pruned", fraction_done=0.2))
    queue.finish_trial(third, make_result("failed"))
    diverged, pruned, failed = queue.study.trials
    assert diverged.state == pruned.state == TrialState.PRUNED
    assert math.isnan(diverged.intermediate_values[50])
    assert diverged.constraints == {"diverged": 1.0}
    assert pruned.value == 2.0
    assert failed.state == TrialState.FAIL


BUDGETS = {
    "max_failures": (Budget(9, max_failures=2), "2 trials in a row failed (trials 2, 3: failed)"),
    "max_failure_rate": (Budget(9, max_failure_rate=0.5), "3 of 4 trials failed, more than 50% (trial 3: failed)"),
    "deadline": (Budget(9, deadline=time.time() - 1), "the time budget is used up"),
    "max_tokens": (Budget(9, max_tokens=400), "the budget of 400 tokens is used up"),
    "patience": (Budget(9, patience=3), "no better value in 3 trials"),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_every_budget_ends_the_study_with_a_reason(name, overrides) -> None:
    budget, reason = BUDGETS[name]
    queue = start_study(*overrides)
    serve_trials(queue, bowl_loss, 1)
    for _ in range(3):
        queue.finish_trial(queue.claim_trial(), make_result("failed"))
    queue.set_budget(budget)
    assert "".join(queue.find_end_reasons()[:2]) == reason
    assert queue.claim_trial() is None


def test_a_stopping_study_hands_out_no_trials_until_a_new_budget_is_set(overrides) -> None:
    queue = start_study(*overrides)
    queue.request_stop()
    assert queue.claim_trial() is None
    queue.set_budget(Budget(24))
    assert queue.claim_trial() is not None


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("optimizer.lr=tag(log,interval(1e-4,1e-2))", "space optimizer.lr: tag(log,interval(0.0001,0.1)) -> "),
        ("sweep.objectives=[best_val_loss,tokens]", "sweep objectives: best_val_loss -> best_val_loss, tokens"),
        ("loop.max_steps=8", "config loop.max_steps: 4 -> 8"),
    ],
)
def test_a_study_with_another_space_objective_or_config_is_not_resumed(change, difference, overrides) -> None:
    serve_trials(start_study(*overrides), bowl_loss, 1)
    none = ["pruner=none"] if "objectives" in change else []
    with pytest.raises(ConfigError, match=r"sweep\.study=NAME") as error:
        start_study(*overrides, change, *none)
    assert difference in str(error.value)
    assert start_study(*overrides, change, *none, "sweep.study=another").claim_trial().number == 0


def test_a_study_is_resumed_with_more_trials_another_pruner_or_tracking(overrides) -> None:
    serve_trials(start_study(*overrides, "sweep.n_trials=2"), bowl_loss)
    queue = start_study(*overrides, "sweep.n_trials=4", "pruner=percentile", "tracking.experiment=other")
    assert [trial.number for trial in serve_trials(queue, bowl_loss)] == [2, 3]


def test_every_option_of_a_group_has_its_own_range(overrides) -> None:
    queue = start_study(*overrides, "sweeps=optimizers", "sweep.n_trials=20")
    serve_trials(queue, bowl_loss)
    names = {name for trial in queue.study.trials for name in trial.params}
    assert {"optimizer.lr @ optimizer=lion", "optimizer.lr @ optimizer=sgd", "optimizer"} <= names
    for trial in queue.study.trials:
        assert [name for name in trial.params if name.startswith("optimizer.lr")] == [
            f"optimizer.lr @ optimizer={trial.params['optimizer']}"
        ]
    lion = [trial.params["optimizer.lr @ optimizer=lion"] for trial in queue.study.trials
            if trial.params["optimizer"] == "lion"]  # fmt: skip
    assert lion
    assert max(lion) <= 1e-2


def test_a_grid_runs_every_combination_once(overrides) -> None:
    queue = start_study(*overrides, "sweeps=grid", "seed=1,2,3", "optimizer=adamw,sgd")
    served = serve_trials(queue, bowl_loss)
    assert trial_params(served) == [{"seed": s, "optimizer": o} for s in (1, 2, 3) for o in ("adamw", "sgd")]
    assert serve_trials(start_study(*overrides, "sweeps=grid", "seed=1,2,3", "optimizer=adamw,sgd"), bowl_loss) == []


def test_an_error_of_the_sampler_is_the_reason_of_the_trials_failure(overrides, monkeypatch, capsys) -> None:
    """Some are raised when the trial starts, others when it asks for a value."""
    for method, values in (("sample_relative", "sweep.study=one"), ("sample_independent", "sweep.study=two")):
        queue = start_study(
            *overrides, "hydra/sweeper/sampler=random", "sweep.baseline=false", "sweep.n_trials=9", values
        )

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise LookupError("no such point")

        monkeypatch.setattr(type(queue.study.sampler), method, fail)
        assert queue.claim_trial() is None
        reasons = [trial.user_attrs[RESULT]["reason"] for trial in queue.study.trials]
        assert reasons == ["its params cannot be set: LookupError: no such point"] * 3
        assert "Traceback" in capsys.readouterr().err
        monkeypatch.undo()
