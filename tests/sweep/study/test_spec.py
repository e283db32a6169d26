"""Samplers that are built from what a study stores."""

import pickle

import optuna
import pytest

from harness.sweep.space.search_space import read_search_space
from harness.sweep.study.journal import StudyJournal
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.storage import open_storage, study_lock

SAMPLERS = {
    "tpe": {"_target_": "optuna.samplers.TPESampler", "seed": None, "multivariate": False, "group": False},
    "qmc": {"_target_": "optuna.samplers.QMCSampler", "seed": 3},
    "grid": {"_target_": "optuna.samplers.GridSampler", "_partial_": True, "seed": None},
}
NO_PRUNER = {"_target_": "optuna.pruners.NopPruner"}


def make_spec(*ranges: str, sampler: str = "tpe") -> StudySpec:
    return StudySpec(
        program="training",
        space=read_search_space(ranges, {}, {"optimizer": "adamw"}).to_json(),
        custom_search_space=None,
        objectives=["best_val_loss"],
        directions=["minimize"],
        sampler=SAMPLERS[sampler],
        pruner=NO_PRUNER,
        seed=1,
        warmup_share=0.0,
        keep=3,
        config={},
    )


@pytest.mark.parametrize("url", [None, "sqlite:///{}/optuna.db"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_study_and_storage_can_be_pickled_while_they_are_used(sampler, url, tmp_path) -> None:
    space = make_spec("optimizer.lr=1e-3,1e-2,1e-1").build_search_space()
    study = optuna.create_study(
        study_name="mine",
        storage=open_storage(url and url.format(tmp_path), tmp_path),
        sampler=make_spec("optimizer.lr=1e-3,1e-2,1e-1", sampler=sampler).make_sampler(),
    )
    with study_lock(study, tmp_path):
        copy = pickle.loads(pickle.dumps(study))
    for one in (study, copy):
        space.suggest_values(one.ask())
    assert [trial.number for trial in copy.get_trials()] == [0, 1]


def test_a_journal_can_be_pickled_while_its_lock_is_held(tmp_path) -> None:
    journal = StudyJournal(tmp_path / "study.journal")
    journal._lock.acquire()
    try:
        copy = pickle.loads(pickle.dumps(journal))
    finally:
        journal._lock.release()
    copy.append_logs([{"op_code": 0}])
    assert list(journal.read_logs(0)) == [{"op_code": 0}]
