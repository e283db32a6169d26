"""The numbers of a study that several sections of its report use."""

from pathlib import Path

import optuna

from harness.evidence.report.study_numbers import StudyNumbers
from harness.evidence.report.study_report import make_study_report
from harness.evidence.report.study_source import load_study_source
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import BASELINE, RESULT
from tests.evidence.report.study_folders import make_sweep_folder


def test_trials_that_differ_in_their_seed_repeat_one_configuration(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "repeats", n_trials=0)
    study = optuna.load_study(study_name=folder.name, storage=open_storage(None, folder))
    for number, (lr, seed) in enumerate([(0.1, 1), (0.1, 2), (0.01, 1), (0.01, 2), (0.01, 3)]):
        study.enqueue_trial({"lr": lr, "trainer.random_seed": seed})
        trial = study.ask()
        trial.suggest_float("lr", 1e-3, 1.0)
        trial.suggest_int("trainer.random_seed", 1, 9)
        trial.set_user_attr(RESULT, {"status": "completed", "seconds": 1.0, "tokens": 0, "folder": str(number)})
        trial.set_user_attr(BASELINE, number == 0)
        study.tell(trial, lr + seed / 1000)
    source = load_study_source(folder)
    numbers = StudyNumbers(source)
    assert [numbers.n_runs_of(trial).value for trial in source.summary.trials] == [2, 2, 3, 3, 3]
    make_study_report(source, None, {})
