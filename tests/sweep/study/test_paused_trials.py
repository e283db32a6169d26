"""Trials that pause and are continued: the queue, its budget, and what is decided after an interruption."""

import math
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.sweep.optuna_internals import return_to_waiting, start_waiting_trial
from harness.sweep.study.budget import Budget, find_share_done
from harness.sweep.study.liveness import this_process
from harness.sweep.study.pruning import TrialReporter
from harness.sweep.study.trial_attrs import (
    BASELINE,
    PROMOTIONS,
    RESULT,
    RETRIES,
    RETRY_OF,
    TARGET,
    WORKER,
    TrialResult,
    is_cut_off,
    is_paused,
    read_trial_result,
)
from harness.sweep.study.trial_queue import TrialQueue
from tests.sweep.study.test_trial_queue import bowl_loss, dead_process
from tests.sweep.tiny_sweeps import TINY, start_study

SHARES = (0.04, 0.12, 0.2, 0.36, 0.6, 0.8, 1.0)
TOKENS = 10_000  # of a whole run


class Stop(Exception):
    """Ends a worker at a moment of the test's choice."""


@pytest.fixture
def overrides(places: list[str]) -> list[str]:
    return [*TINY, *places, "schedule.warmup_ratio=0", "pruner=pausing", "sweep.runs=4", "hydra/sweeper/sampler=random"]


def learn(trial: Trial, share: float) -> float:
    return bowl_loss(trial) + 2 * (1 - share) ** 2


def train(queue: TrialQueue, trial: Trial, at: Callable[[str], None] = lambda moment: None) -> None:
    """Do what a worker does with a trial, without training; `at` is called at each moment."""
    reporter, start = TrialReporter(trial, 0.0), read_trial_result(trial).get("fraction_done", 0.0)
    result = TrialResult("completed", values=(learn(trial, 1.0),), tokens=TOKENS, fraction_done=1.0)
    for share in SHARES:
        if share <= start:
            continue
        at(f"trial {trial.number} before {share}")
        advice = reporter.report_share(learn(trial, share), share, can_pause=True)
        at(f"trial {trial.number} after {share}")
        if advice == "pause":
            result = TrialResult("paused", tokens=round(TOKENS * share), fraction_done=share, checkpoint="x")
            break
    queue.finish_trial(trial, result)


def serve(queue: TrialQueue, count: int = 10_000, at: Callable[[str], None] = lambda moment: None) -> list[Trial]:
    """Claim and run trials until none is left."""
    served: list[Trial] = []
    while len(served) < count and (trial := queue.claim_trial()) is not None:
        train(queue, trial, at)
        served.append(trial)
    return served


def describe(study: optuna.Study) -> list[tuple[Any, ...]]:
    """Return all that a sweep has decided and measured."""
    return [
        (trial.state, trial.params, trial.intermediate_values, trial.values,
         trial.user_attrs.get(PROMOTIONS), trial.user_attrs[TARGET])
        for trial in study.trials
    ]  # fmt: skip


def sum_shares(study: optuna.Study) -> float:
    return sum(map(find_share_done, study.trials))


def test_a_sweep_pauses_promotes_and_stays_within_its_budget(overrides: list[str]) -> None:
    queue = start_study(*overrides)
    serve(queue)
    study = queue.study
    completed = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    paused = [trial for trial in study.trials if is_paused(trial)]
    assert len(completed) + len(paused) == len(study.trials)
    assert study.trials[0].user_attrs[BASELINE]
    assert study.trials[0].state == TrialState.COMPLETE  # it is never paused
    assert len(completed) >= 2  # 27 trials at 4% lead to one at 100%
    assert len(paused) >= 3 * len(completed)
    assert 4 - 0.64 - 1e-9 <= sum_shares(study) <= 4 + 1e-9
    values = [trial.intermediate_values[4] for trial in paused]
    assert max(min(trial.intermediate_values.values()) for trial in completed[1:]) < sorted(values)[len(values) // 2]
    assert queue.find_end_reasons().exhausted_budget == "the budget of 4 runs is used up"
    assert not queue.has_more_trials()


def test_a_larger_budget_continues_paused_trials(overrides: list[str]) -> None:
    queue = start_study(*overrides)
    serve(queue)
    n_trials = len(queue.study.trials)
    before = {trial.number: trial.user_attrs.get(PROMOTIONS, []) for trial in queue.study.trials}
    queue = start_study(*overrides, "sweep.runs=7")
    serve(queue)
    assert sum_shares(queue.study) <= 7 + 1e-9
    assert len(queue.study.trials) > n_trials
    grown = [number for number in before if len(queue.study.trials[number].user_attrs.get(PROMOTIONS, [])) >
             len(before[number])]  # fmt: skip
    assert grown


def test_a_number_of_trials_ends_with_the_best_of_them_completed(overrides: list[str]) -> None:
    queue = start_study(*overrides, "sweep.runs=null", "sweep.n_trials=7")
    serve(queue)
    trials = queue.study.trials
    assert len(trials) == 7
    best = min(trials[1:], key=lambda trial: trial.intermediate_values[4])
    assert best.state == TrialState.COMPLETE
    assert queue.find_end_reasons().exhausted_budget == ""


def test_a_budget_of_tokens_is_never_exceeded(overrides: list[str]) -> None:
    queue = start_study(*overrides, "sweep.runs=null", f"sweep.max_tokens={3 * TOKENS}")
    serve(queue)
    used = sum(read_trial_result(trial).get("tokens", 0) for trial in queue.study.trials)
    assert 3 * TOKENS - 0.64 * TOKENS <= used <= 3 * TOKENS
    assert queue.find_end_reasons().exhausted_budget == f"the budget of {3 * TOKENS} tokens is used up"


@pytest.mark.parametrize("interval", [2, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 3, 7))])
def test_an_interrupted_sweep_decides_as_an_uninterrupted_one(interval: int, overrides: list[str]) -> None:
    """Each so many segments the process is replaced by a new one, and in between a trial is interrupted."""
    straight = start_study(*overrides, "sweep.study=straight")
    serve(straight)
    queue, n_served = start_study(*overrides, "sweep.study=stopped"), interval
    while n_served == interval:
        queue = start_study(*overrides, "sweep.study=stopped")
        n_served = len(serve(queue, interval))
        trial = queue.claim_trial()
        if trial is None:
            break
        if read_trial_result(trial).get("checkpoint"):
            interrupted = replace(TrialResult(**read_trial_result(trial)), status="interrupted")
            queue.finish_trial(trial, interrupted)
            assert is_cut_off(queue.study.trials[trial.number])
        else:
            train(queue, trial)
    assert describe(queue.study) == describe(straight.study)


def test_wherever_a_worker_dies_the_sweep_decides_alike(overrides: list[str]) -> None:
    """It dies at a report, or between two writes of the queue, while a trial is paused or promoted."""
    straight = start_study(*overrides, "sweep.study=straight", "sweep.runs=2.5")
    moments: list[str] = []
    serve(straight, at=moments.append)
    continued = [moment for moment in moments if moment.endswith((" 0.12", " 0.36", " 1.0"))]
    for index, fatal in enumerate(continued[:: max(1, len(continued) // 3)]):
        queue = start_study(*overrides, f"sweep.study=killed-{index}", "sweep.runs=2.5")

        def die(moment: str, fatal: str = fatal) -> None:
            if moment == fatal:
                raise Stop

        with pytest.raises(Stop):
            serve(queue, at=die)
        [running] = [trial for trial in queue.study.trials if trial.state == TrialState.RUNNING]
        bury(queue, running)
        was_paused = bool(read_trial_result(running).get("checkpoint"))
        queue = start_study(*overrides, f"sweep.study=killed-{index}", "sweep.runs=2.5")
        assert queue.reap_dead_trials(is_leftover=True) == [running.number]
        serve(queue)
        retries = [trial for trial in queue.study.trials if RETRY_OF in trial.user_attrs]
        assert len(retries) == (not was_paused)
        if was_paused:
            assert describe(queue.study) == describe(straight.study)


def test_a_death_between_the_writes_of_a_pause_or_a_promotion_loses_nothing(overrides: list[str]) -> None:
    queue = start_study(*overrides)
    serve(queue, 12)
    study = queue.study
    [promoted] = [trial for trial in study.trials if trial.user_attrs.get(PROMOTIONS) and is_paused(trial)][:1]
    # Its result was recorded, and it is still running.
    assert start_waiting_trial(study, promoted, {WORKER: dead_process()})
    assert queue.reap_dead_trials(is_leftover=False) == [promoted.number]
    assert is_paused(study.trials[promoted.number])
    # Its promotion was recorded, and it was not yet started.
    trial = start_waiting_trial(study, promoted, {WORKER: dead_process(), TARGET: 100})
    return_to_waiting(study, trial, {})
    assert is_cut_off(study.trials[promoted.number])
    claimed = queue.claim_trial()
    assert (claimed.number, claimed.user_attrs[TARGET]) == (promoted.number, 100)
    assert claimed.params == promoted.params


@pytest.mark.parametrize(("target", "reported"), [(100, 100), (4, None)])
def test_a_death_after_the_last_checkpoint_leaves_no_trial_behind(
    target: int, reported: int | None, overrides: list[str]
) -> None:
    """It is after the last report of a whole run, or before a report at the rung of its checkpoint."""
    queue = start_study(*overrides)
    trial = next(trial for trial in iter(queue.claim_trial, None) if trial.user_attrs[TARGET] == target)
    if reported is not None:
        trial.report(3.0, reported)
    died = TrialResult("interrupted", fraction_done=target / 100, checkpoint="x")
    trial.set_user_attr(RESULT, asdict(died))
    bury(queue, queue.study.trials[trial.number])
    assert queue.reap_dead_trials(is_leftover=False) == [trial.number]
    claimed = queue.claim_trial()
    assert (claimed.number, claimed.user_attrs[TARGET]) == (trial.number, target)


def test_a_segment_that_cannot_be_saved_leaves_the_one_before(overrides: list[str]) -> None:
    queue = start_study(*overrides)
    serve(queue, 12)
    [number] = [trial.number for trial in queue.study.trials if trial.user_attrs.get(PROMOTIONS)][:1]
    before = read_trial_result(queue.study.trials[number])
    trial = start_waiting_trial(queue.study, queue.study.trials[number], {WORKER: this_process(), TARGET: 100})
    queue.finish_trial(trial, TrialResult("interrupted", "no space left"))
    result = read_trial_result(queue.study.trials[number])
    assert result == {**before, "status": "interrupted", "reason": "no space left"}
    assert queue.claim_trial().number == number


def test_a_trial_that_kills_its_workers_is_given_up(overrides: list[str]) -> None:
    queue = start_study(*overrides)
    serve(queue, 12)
    [number] = [trial.number for trial in queue.study.trials if trial.user_attrs.get(PROMOTIONS)][:1]
    for deaths in (1, 2):
        trial = queue.study.trials[number]
        assert start_waiting_trial(queue.study, trial, {WORKER: dead_process(), TARGET: 100})
        queue.reap_dead_trials(is_leftover=False)
        assert queue.study.trials[number].user_attrs[RETRIES] == 1 or deaths == 2
    assert queue.study.trials[number].state == TrialState.FAIL
    assert not any(RETRY_OF in trial.user_attrs for trial in queue.study.trials)


def test_a_trial_paused_on_another_host_is_continued_there(overrides: list[str], tmp_path: Path) -> None:
    queue = start_study(*overrides)
    serve(queue, 4)
    n_trials = len(queue.study.trials)
    for trial in queue.study.trials[1:]:
        there = {WORKER: {**this_process(), "host": "another"}}
        return_to_waiting(queue.study, start_waiting_trial(queue.study, trial, there), {})
    claimed = queue.claim_trial()
    assert claimed.number == n_trials  # a new one
    queue.finish_trial(claimed, TrialResult("failed"))
    for trial in queue.study.trials[1:n_trials]:
        result = {**read_trial_result(trial), "checkpoint": str(tmp_path)}  # a folder that both hosts see
        return_to_waiting(queue.study, start_waiting_trial(queue.study, trial, {RESULT: result}), {})
    serve(queue)
    assert any(trial.state == TrialState.COMPLETE for trial in queue.study.trials[1:n_trials])


@pytest.mark.parametrize(
    "storage",
    [
        None,
        "sqlite:///{}/study.db",
        pytest.param("postgres", marks=pytest.mark.postgres),
    ],
)
def test_four_workers_share_a_study(storage: str | None, overrides: list[str], tmp_path: Path) -> None:
    """No segment is run twice, no step is reported twice, and the budget holds."""
    where = []
    if storage is not None:
        url = os.environ["HARNESS_TEST_POSTGRES"] if storage == "postgres" else storage.format(tmp_path)
        where = [f"sweep.storage={url}", f"sweep.study=shared-{uuid4().hex}"]
    queues = [start_study(*overrides, *where, "sweep.runs=3") for _ in range(4)]
    segments: list[tuple[int, int]] = []
    errors: list[BaseException] = []

    def work(queue: TrialQueue) -> None:
        try:
            for trial in serve(queue):
                segments.append((trial.number, trial.user_attrs[TARGET]))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(segments)) == len(segments)
    study = queues[0].study
    serve(queues[0])  # what was left when the last of several workers had nothing to do
    assert sum_shares(study) <= 3 + 1e-9
    assert not any(trial.state == TrialState.RUNNING for trial in study.trials)
    assert sum(trial.state == TrialState.COMPLETE for trial in study.trials) >= 2


def test_shares_of_running_trials_are_reserved() -> None:
    def make(state: TrialState, target: int, done: float) -> FrozenTrial:
        attrs = {WORKER: this_process(), TARGET: target, RESULT: {"status": "paused", "fraction_done": done}}
        value = 1.0 if state == TrialState.COMPLETE else None
        return optuna.trial.create_trial(state=state, user_attrs=attrs, value=value)

    budget = Budget(100, runs=3)
    trials = [make(TrialState.RUNNING, 36, 0.12), make(TrialState.WAITING, 12, 0.12), make(TrialState.COMPLETE, 100, 1)]
    assert math.isclose(budget.find_share_left(trials), 3 - 0.36 - 0.12 - 1)
    assert Budget(100).find_share_left(trials) == math.inf


def bury(queue: TrialQueue, trial: FrozenTrial) -> None:
    """Make the process that runs a trial one that has died."""
    queue.study._storage.set_trial_user_attr(trial._trial_id, WORKER, dead_process())
