"""The private parts of Optuna and Hydra that the harness uses, checked against the installed versions."""

import inspect
import json
import logging
import math
import re
import warnings
from datetime import datetime, timedelta

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import TrialState
from sqlalchemy import text

from harness.sweep import hydra_internals, optuna_internals
from tests.conftest import ROOT

LR = FloatDistribution(1e-4, 1e-1, log=True)


@pytest.fixture
def database_study(tmp_path) -> Study:
    """A study in a database with heartbeats every second, stale after two."""
    storage = RDBStorage(f"sqlite:///{tmp_path}/study.db", heartbeat_interval=1, grace_period=2)
    return optuna.create_study(storage=storage)


def test_no_other_file_uses_private_names() -> None:
    private = re.compile(
        r"optuna\.[\w.]*\._|hydra_optuna_sweeper\._|\b(study|storage|trial|dist|distribution)\._(?!get_trials\b)[a-z]"
    )
    offenders = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for folder in ("harness", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        if file.name not in ("optuna_internals.py", "hydra_internals.py", "trusted_components.py")
        for line in file.read_text().splitlines()
        if private.search(line)
    ]
    assert offenders == []


def test_the_engine_of_a_database_is_found_and_a_journal_has_none(database_study, tmp_path) -> None:
    engine = optuna_internals.get_database_engine(database_study)
    assert engine is not None
    assert engine.dialect.name == "sqlite"
    journal = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(tmp_path / "journal"))))
    assert optuna_internals.get_database_engine(journal) is None


def test_a_journal_accepts_a_custom_lock(tmp_path) -> None:
    calls = []

    class Lock(optuna_internals.JournalFileLock):
        def acquire(self) -> bool:
            calls.append("acquire")
            return True

        def release(self) -> None:
            calls.append("release")

    optuna.create_study(storage=JournalStorage(JournalFileBackend(str(tmp_path / "journal"), Lock())))
    assert calls[:2] == ["acquire", "release"]


def test_any_distribution_is_suggested_and_checked() -> None:
    trial = optuna.create_study().ask()
    distributions = {"lr": LR, "rank": IntDistribution(2, 8), "optimizer": CategoricalDistribution(["adamw", "sgd"])}
    for name, distribution in distributions.items():
        value = optuna_internals.suggest_value(trial, name, distribution)
        assert optuna_internals.is_in_distribution(distribution, value)
    assert trial.distributions == distributions
    assert not optuna_internals.is_in_distribution(LR, 1.0)


def test_enqueued_params_are_read_before_they_are_suggested() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"lr": 0.01})
    study.ask()
    assert study.trials[0].params == {}
    assert optuna_internals.get_enqueued_params(study.trials[0]) == {"lr": 0.01}


@pytest.mark.parametrize("is_database", [False, True])
def test_a_trial_is_started_with_its_attributes_and_queued_ones_come_first(is_database, tmp_path) -> None:
    journal = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    storage = f"sqlite:///{tmp_path}/study.db" if is_database else journal
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler())
    study.enqueue_trial({"lr": 0.01})
    study._get_trials(use_cache=True)
    attrs = {"worker": 1}
    waiting = study.trials[0]
    for value in (0.01, None):
        if value is None:
            trial = optuna_internals.start_new_trial(study, attrs)
        else:
            trial = optuna_internals.start_waiting_trial(study, waiting, attrs)
            assert optuna_internals.start_waiting_trial(study, waiting, {"worker": 2}) is None  # it is running
        assert trial is not None
        lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        assert value is None or lr == value
    assert study._thread_local.cached_all_trials is None
    trials = study.trials
    assert [(trial.state, trial.user_attrs) for trial in trials] == [(TrialState.RUNNING, {"worker": 1})] * 2
    assert all(trial.datetime_start for trial in trials)
    study.tell(trials[1].number, 1.0)
    assert "cached_all_trials = None" in inspect.getsource(Study.ask)


def test_the_pruner_sees_no_hidden_trials() -> None:
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    study.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values={1: 0.0}))
    trial = study.ask()
    trial.report(1.0, 1)
    assert optuna_internals.should_prune(trial, ())
    assert not optuna_internals.should_prune(trial, {0})


def test_a_journal_is_replayed_one_record_at_a_time(tmp_path) -> None:
    path = tmp_path / "journal"
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))))
    study.tell(study.ask(), 1.0)
    replay = optuna_internals.JournalReplay()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [replay.apply_record(record, is_strict=True) for record in records] == [""] * len(records)
    assert replay.apply_record({**records[-1], "trial_id": 7}) == ""
    assert replay.apply_record({**records[-1], "trial_id": 7}, is_strict=True) == "trial 7 does not exist"


def test_a_trial_without_recent_heartbeat_is_stale(database_study) -> None:
    assert optuna_internals.get_heartbeat_interval(database_study) == 1
    trial, silent = database_study.ask(), database_study.ask()
    for one in (trial, silent):
        optuna_internals.record_heartbeat(one)
    with optuna_internals.get_database_engine(database_study).begin() as connection:
        old = {"at": datetime.now() - timedelta(days=2), "id": silent.number + 1}
        changed = connection.execute(text("UPDATE trial_heartbeats SET heartbeat = :at WHERE trial_id = :id"), old)
        assert changed.rowcount == 1
    assert optuna_internals.find_stale_trials(database_study) == {silent.number}


def test_a_storage_without_heartbeats_has_no_stale_trials() -> None:
    study = optuna.create_study(storage=InMemoryStorage())
    optuna_internals.record_heartbeat(study.ask())
    assert optuna_internals.get_heartbeat_interval(study) is None
    assert optuna_internals.find_stale_trials(study) == set()


def test_a_running_trial_of_another_process_is_failed_only_once(database_study) -> None:
    database_study.ask()
    [running] = database_study.trials
    optuna_internals.fail_trial(database_study, running, {"result": {"status": "failed"}})
    [failed] = database_study.trials
    assert (failed.state, failed.user_attrs) == (TrialState.FAIL, {"result": {"status": "failed"}})
    with pytest.raises(UpdateFinishedTrialError):
        optuna_internals.fail_trial(database_study, running, {"result": {}})


def test_a_running_trial_of_another_process_is_completed_only_once(database_study) -> None:
    database_study.ask()
    [running] = database_study.trials
    optuna_internals.complete_trial(database_study, running, {"result": {}}, [0.5])
    [completed] = database_study.trials
    assert (completed.state, completed.values) == (TrialState.COMPLETE, [0.5])
    with pytest.raises(UpdateFinishedTrialError):
        optuna_internals.complete_trial(database_study, running, {}, [0.4])


@pytest.mark.parametrize("sampler", ["TPESampler", "CmaEsSampler", "QMCSampler", "GPSampler"])
def test_samplers_do_not_read_hidden_trials(sampler) -> None:
    assert "_get_trials" in inspect.getsource(inspect.getmodule(getattr(optuna.samplers, sampler)))
    study = optuna.create_study()
    for attrs in ({}, {"hidden": True}):
        study.enqueue_trial({}, user_attrs=attrs)
        study.tell(study.ask(), 1.0)
    view = optuna_internals.hide_trials(study, {1})
    expected = [study.trials[0]]
    assert view.trials == view.get_trials() == view._get_trials(deepcopy=False, use_cache=True) == expected
    assert view.study_name == study.study_name
    assert list(inspect.signature(Study._get_trials).parameters) == ["self", "deepcopy", "states", "use_cache"]


@pytest.mark.parametrize("sampler", ["TPESampler", "GPSampler"])
def test_samplers_read_the_trials_that_replace_those_of_a_study(sampler) -> None:
    study = optuna.create_study(direction="maximize")
    trials = [
        optuna.trial.create_trial(params={"lr": lr}, distributions={"lr": LR}, value=-abs(math.log10(lr) + 2))
        for lr in (1e-4, 1e-3, 1e-2, 1e-1) * 4
    ]
    view = optuna_internals.replace_trials(study, trials)
    assert view.trials == view.get_trials() == view._get_trials(use_cache=True) == trials
    assert view.get_trials(states=(TrialState.RUNNING,)) == []
    trial = study.ask()
    made = getattr(optuna.samplers, sampler)(seed=1)
    lr = made.sample_independent(view, trial, "lr", LR) if sampler == "TPESampler" else None
    found = made.sample_relative(view, study.trials[0], made.infer_relative_search_space(view, study.trials[0]))
    assert 1e-3 < (lr or found["lr"]) < 1e-1


def test_params_are_points_of_a_unit_cube() -> None:
    space = {"lr": LR, "rank": IntDistribution(1, 4), "optimizer": CategoricalDistribution(["adamw", "sgd", "muon"])}
    cube = optuna_internals.UnitCube(space)
    params = {"lr": 1e-1, "rank": 2, "optimizer": "sgd"}
    point = cube.encode(params)
    assert point.tolist() == pytest.approx([1.0, 0.375, 0.0, 1.0, 0.0])
    assert cube.decode(point) == pytest.approx(params)
    assert cube.decode(point - [0.5, 0.1, 0, 0, 0]) == pytest.approx({**params, "lr": 10**-2.5})
    assert [columns.tolist() for columns in cube.choice_columns] == [[2, 3, 4]]


def test_all_trials_are_read_through_a_hyperband_bracket() -> None:
    study = optuna.create_study(pruner=optuna.pruners.HyperbandPruner(1, 9, 3))
    study.set_user_attr("sweep", 1)
    seen = []

    class Sampler(optuna.samplers.RandomSampler):
        def before_trial(self, study: Study, trial: optuna.trial.FrozenTrial) -> None:
            assert optuna_internals.get_study_attrs(study) == {"sweep": 1}
            seen.append((len(study.get_trials()), len(optuna_internals.get_all_trials(study))))

    for _ in range(12):
        trial = study.ask()
        for step in (1, 3, 9):
            trial.report(1.0, step)
            trial.should_prune()
        study.tell(trial, 1.0)
    study.sampler = Sampler()
    study.ask()
    [(in_bracket, total)] = seen
    assert in_bracket < total == 13


def test_optuna_is_silent() -> None:
    verbosity = optuna.logging.get_verbosity()
    with warnings.catch_warnings(record=True) as caught:
        optuna_internals.silence_optuna()
        optuna.samplers.QMCSampler(seed=1)
        study = optuna.create_study(
            storage=RDBStorage("sqlite:///:memory:", heartbeat_interval=1), sampler=optuna.samplers.RandomSampler()
        )
        study.tell(study.ask(), 1.0)
        assert not logging.getLogger("optuna").isEnabledFor(logging.INFO)
    optuna.logging.set_verbosity(verbosity)
    assert [warning for warning in caught if issubclass(warning.category, ExperimentalWarning)] == []
    assert [warning for warning in caught if "Heartbeat of storage" in str(warning.message)] == []


def test_sweep_syntax_is_parsed_into_distributions() -> None:
    override = OverridesParser.create().parse_override("optimizer.lr=tag(log,interval(1e-4,1e-1))")
    assert hydra_internals.parse_distribution(override) == LR
    with pytest.raises(ValueError, match="at least one value"):
        hydra_internals.parse_distribution(OverridesParser.create().parse_override("lora.rank=range(4,4)"))
    overrides = ["lora.rank=int(interval(2,8))", "seed=3", "~loop.patience"]
    expected = ({"lora.rank": IntDistribution(2, 8)}, {"seed": "3"}, ["~loop.patience"])
    assert hydra_internals.split_overrides(overrides) == expected
