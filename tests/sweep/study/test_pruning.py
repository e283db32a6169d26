"""Learning curves in steps: to shares of a run whose length is given, learnt from other trials, or unknown."""

import math
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState, create_trial

from harness.sweep.optuna_internals import start_new_trial
from harness.sweep.study.liveness import this_process
from harness.sweep.study.pruning import MAX_KEPT, TrialReporter
from harness.sweep.study.trial_attrs import LAST_STEP, WORKER
from tests.sweep.studies import new_study

HALVING = {"min_resource": 20, "reduction_factor": 4}
PRUNERS = {
    "none": NopPruner,
    "median": lambda: MedianPruner(n_startup_trials=1),
    "percentile": lambda: PercentilePruner(25.0, n_startup_trials=1),
    "halving": lambda: SuccessiveHalvingPruner(**HALVING),
    "hyperband": lambda: HyperbandPruner(min_resource=20, max_resource=100, reduction_factor=2),
    "patient": lambda: PatientPruner(MedianPruner(n_startup_trials=1), patience=1),
    "patient alone": lambda: PatientPruner(None, patience=1),
    "threshold": lambda: ThresholdPruner(upper=10.0),
    "wilcoxon": WilcoxonPruner,
}

STORAGES = [("halving", "journal"), ("halving", "database")]  # it stores values as attributes, too


def make_study(pruner: BasePruner | None = None, direction: str = "minimize", **options: Any) -> optuna.Study:
    return new_study(directions=[direction], pruner=pruner or MedianPruner(n_startup_trials=1), **options)


def start(study: optuna.Study) -> Trial:
    return start_new_trial(study, {WORKER: this_process()})


def run_trial(study: optuna.Study, values: list[float], total: int | None = None, every: int = 1) -> Trial:
    """Run a trial that reports a value `every` so many steps, until it is pruned or complete."""
    trial = start(study)
    reporter = TrialReporter(trial, 0.0)
    for index, value in enumerate(values, 1):
        if reporter.report_step(value, index * every, total) == "prune":
            reporter.close(is_complete=False)
            study.tell(trial, state=TrialState.PRUNED)
            return trial
    reporter.close(is_complete=True)
    study.tell(trial, values[-1])
    return trial


def curve(study: optuna.Study, number: int) -> dict[int, float]:
    return study.trials[number].intermediate_values


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


@pytest.mark.parametrize("every", [1, 25])
def test_steps_of_a_given_length_are_stored_as_percents(every: int) -> None:
    study = make_study()
    run_trial(study, [4.0, 3.0, 2.0, 1.0], 4 * every, every)
    assert curve(study, 0) == {25: 4.0, 50: 3.0, 75: 2.0, 100: 1.0}


def test_runs_of_different_length_compare() -> None:
    study = make_study()
    run_trial(study, [4.0, 3.0, 2.0, 1.0], 4)
    run_trial(study, [9.0, 9.0, 9.0, 9.0], 400, every=100)
    assert states(study) == ["COMPLETE", "PRUNED"]
    assert curve(study, 1) == {25: 9.0}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("name", ["median", "percentile", "halving", "hyperband", "patient"])
@pytest.mark.parametrize("total", [5, None])
def test_pruners_stop_what_is_worse_in_either_direction(direction: str, name: str, total: int | None) -> None:
    study = make_study(PRUNERS[name](), direction)
    sign = 1 if direction == "minimize" else -1
    for offset in (0, 1, 2, 3):
        run_trial(study, [sign * (offset + step / 100) for step in range(1, 6)], total)  # patient: none gets better
    assert states(study)[0] == "COMPLETE"
    assert "PRUNED" in states(study)
    run_trial(study, [sign * -1.0] * 5, total)
    assert states(study)[4] == "COMPLETE"


def test_without_a_length_nothing_is_pruned_until_a_trial_has_completed() -> None:
    study = make_study(SuccessiveHalvingPruner(**HALVING))
    first, second = start(study), start(study)
    reporters = [TrialReporter(first, 0.0), TrialReporter(second, 0.0)]
    for step in range(1, 6):
        assert reporters[0].report_step(1.0, step) == "continue"
        assert reporters[1].report_step(9.0, step) == "continue"
    assert curve(study, 0) == curve(study, 1) == {}
    assert reporters[1].fraction_done == 0.0
    for step in range(6, 11):
        assert reporters[0].report_step(1.0, step) == "continue"
    reporters[0].close(is_complete=True)
    study.tell(first, 1.0)
    assert curve(study, 0) == {10 * step: 1.0 for step in range(1, 11)}
    assert study.trials[0].user_attrs[LAST_STEP] == 10
    assert reporters[1].report_step(9.0, 6) == "prune"  # as it would have been at 20%, had the length been known
    assert curve(study, 1) == {10 * step: 9.0 for step in range(1, 7)}
    assert reporters[1].fraction_done == 0.6


def test_a_trial_beyond_the_known_length_is_not_pruned_there() -> None:
    study = make_study()
    run_trial(study, [1.0] * 4)
    trial = start(study)
    reporter = TrialReporter(trial, 0.0)
    assert reporter.report_step(0.5, 3) == "continue"
    assert [reporter.report_step(99.0, step) for step in range(4, 20)] == ["continue"] * 16
    reporter.close(is_complete=True)
    study.tell(trial, 99.0)
    assert curve(study, 1) == {75: 0.5, 100: 99.0}
    run_trial(study, [0.1] * 19)  # the longest trial tells the length
    assert list(curve(study, 2)) == [round(100 * step / 19) for step in range(1, 20)]


def test_only_own_completed_trials_with_a_sane_attribute_tell_the_length() -> None:
    study = make_study()
    for attr in (0, -3, 2.5, True, "9", None):
        study.add_trial(create_trial(value=1.0, user_attrs={WORKER: this_process(), LAST_STEP: attr}))
    study.add_trial(create_trial(value=1.0, user_attrs={LAST_STEP: 7}))
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={WORKER: this_process(), LAST_STEP: 8}))
    trial = start(study)
    TrialReporter(trial, 0.0).report_step(1.0, 1)
    assert curve(study, trial.number) == {}
    study.add_trial(create_trial(value=1.0, user_attrs={WORKER: this_process(), LAST_STEP: 4}))
    assert TrialReporter(trial, 0.0).report_step(1.0, 1) == "continue"
    assert curve(study, trial.number) == {25: 1.0}


def test_a_length_that_is_said_later_holds_for_the_values_before() -> None:
    study = make_study()
    reporter = TrialReporter(start(study), 0.0)
    reporter.report_step(3.0, 1)
    reporter.report_step(2.0, 2, 4)
    reporter.report_step(1.0, 3)
    assert curve(study, 0) == {25: 3.0, 50: 2.0, 75: 1.0}


@pytest.mark.filterwarnings("error")  # Optuna warns of a second value at a step
def test_repeated_and_smaller_steps_are_ignored() -> None:
    study = make_study()
    run_trial(study, [2.0] * 10, 10)
    reporter = TrialReporter(start(study), 0.0)
    assert reporter.report_step(1.0, 5, 10) == "continue"
    assert reporter.report_step(99.0, 5, 10) == "continue"  # a second value of this epoch
    assert reporter.report_step(99.0, 1, 10) == "continue"  # the second fold of a cross-validation
    assert reporter.report_step(99.0, 6, 1000) == "continue"  # another, longer training
    assert curve(study, 1) == {50: 1.0}


@pytest.mark.filterwarnings("error")
def test_of_many_steps_one_value_for_each_percent_is_stored() -> None:
    study = make_study(NopPruner())
    reporter = TrialReporter(start(study), 0.0)
    for step in range(10_001):
        reporter.report_step(float(step), step, 10_000)
    assert len(curve(study, 0)) == 101
    assert curve(study, 0)[0] == 0.0


def test_many_steps_of_unknown_length_are_thinned_out() -> None:
    study = make_study(NopPruner())
    reporter = TrialReporter(start(study), 0.0)
    for step in range(10 * MAX_KEPT):
        reporter.report_step(float(step), step)
    assert len(reporter._kept) <= MAX_KEPT
    reporter.close(is_complete=True)
    assert sorted(curve(study, 0)) == list(range(101))
    assert all(abs(value / (10 * MAX_KEPT) - rung / 100) < 0.01 for rung, value in curve(study, 0).items())


def test_nothing_is_pruned_before_the_warmup_has_ended() -> None:
    study = make_study()
    run_trial(study, [1.0] * 4, 4)
    reporter = TrialReporter(start(study), 0.5)
    assert [reporter.report_step(9.0, step, 4) for step in (1, 2)] == ["continue", "prune"]
    baseline = TrialReporter(start(study), 1.0)
    assert [baseline.report_step(9.0, step, 4) for step in range(5)] == ["continue"] * 5


@pytest.mark.parametrize(("name", "storage"), [*((name, "memory") for name in PRUNERS), *STORAGES])
def test_values_that_are_not_finite_crash_no_pruner(name: str, storage: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    if storage == "journal":
        options["storage"] = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    if storage == "database":
        options["storage"] = f"sqlite:///{tmp_path}/study.db"
    study = make_study(PRUNERS[name](), **options)
    run_trial(study, [1.0] * 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as applications may have it
        for values in ([math.nan] * 4, [math.inf] * 4, [-math.inf] * 4, [1.0, math.nan, 1.0, math.nan]):
            for trial_values in (values, values):  # the second one is compared with the first
                run_trial(study, [*trial_values, 1.0], 5)
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=1)
    study.ask().suggest_float("x", 0, 1)


def test_a_diverging_trial_is_pruned_by_the_default_pruner() -> None:
    study = make_study(SuccessiveHalvingPruner(**HALVING))
    run_trial(study, [1.0, math.nan], 10)
    assert states(study) == ["PRUNED"]
    assert math.isnan(curve(study, 0)[20])


def test_several_objectives_are_not_reported() -> None:
    study = new_study(["loss", "seconds"])
    reporter = TrialReporter(start(study), 0.0)
    assert reporter.report_step(1.0, 1, 2) == "continue"
    reporter.close(is_complete=True)
    assert curve(study, 0) == {}


def test_a_trial_without_reports_or_ended_by_another_program_closes_quietly() -> None:
    study = make_study()
    TrialReporter(start(study), 0.0).close(is_complete=True)
    assert LAST_STEP not in study.trials[0].user_attrs
    trial = start(study)
    reporter = TrialReporter(trial, 0.0)
    reporter.report_step(1.0, 0)
    study.tell(trial.number, 1.0)
    reporter.close(is_complete=True)
    assert curve(study, 1) == {}


def test_a_trial_that_fails_tells_no_length() -> None:
    study = make_study()
    stored: dict[int, float]
    for total, stored in ((None, {}), (4, {25: 1.0, 50: 1.0})):
        trial = start(study)
        reporter = TrialReporter(trial, 0.0)
        for step in (1, 2):
            reporter.report_step(1.0, step, total)
        reporter.close(is_complete=False)
        study.tell(trial, state=TrialState.FAIL)
        assert curve(study, trial.number) == stored  # without a length, the shares are unknown
        assert LAST_STEP not in study.trials[trial.number].user_attrs


def test_a_database_that_does_not_answer_ends_no_trial(tmp_path, capsys) -> None:
    storage = RDBStorage(f"sqlite:///{tmp_path}/study.db", engine_kwargs={"connect_args": {"timeout": 0.05}})
    study = make_study(storage=storage)
    run_trial(study, [1.0] * 4, total=4)
    reporter = TrialReporter(start(study), 0.0)
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert reporter.report_step(9.0, 1, 4) == "continue"  # worse than the other trial
        other.execute("ROLLBACK")
    assert "warning: cannot report to the study (" in capsys.readouterr().err
    assert reporter.report_step(9.0, 2, 4) == "prune"
