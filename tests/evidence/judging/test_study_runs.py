from dataclasses import asdict
from pathlib import Path

import optuna
import pytest
from optuna.study import Study

from harness.core.errors import ConfigError
from harness.evidence.confirm.result import CONFIRM_FILE
from harness.evidence.judging.study_runs import read_study_log
from harness.record.metrics_file import write_json
from harness.record.sweep_files import PROGRAM_FILE, SWEEP_FILE
from harness.sweep.program_file import RecordedProgram
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import BASELINE, FIXED_VALUES, RESULT, SEED_RUN, STUDY_SPEC
from tests.evidence.judging.loops import judge_log


def create_study(folder: Path, storage: str | None = None, directions: tuple[str, ...] = ("minimize",)) -> Study:
    """Create the folder of a sweep with its study."""
    folder.mkdir()
    program = RecordedProgram(folder.name, storage, {}, ["python"], ".", "local", 1, None)
    write_json(folder / PROGRAM_FILE, asdict(program))
    write_json(folder / SWEEP_FILE, {})
    return optuna.create_study(
        storage=open_storage(storage, folder), study_name=folder.name, directions=list(directions)
    )


def make_study(
    folder: Path, baseline: list[float], trials: list[tuple[float, float | None]], storage: str | None = None
) -> None:
    """Write a study whose trials have a learning rate and a value; the baseline is run with several seeds."""
    study = create_study(folder, storage)
    study.set_user_attr(STUDY_SPEC, {"objectives": ["best_val_loss"]})
    space = {"lr": optuna.distributions.FloatDistribution(0.01, 1.0)}
    for seed, value in enumerate(baseline):
        attrs = {FIXED_VALUES: {"lr": 3.0, "seed": seed}, RESULT: {"status": "completed"}}
        attrs |= {} if seed else {BASELINE: True}
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs=attrs))
    for lr, value in trials:
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        status = "failed" if value is None else "completed"
        study.add_trial(optuna.trial.create_trial(
            state=state, value=value, params={"lr": lr}, distributions=space, user_attrs={RESULT: {"status": status}}
        ))  # fmt: skip


def test_the_best_trial_is_judged_against_the_repeated_baseline(tmp_path: Path) -> None:
    make_study(tmp_path / "lr", [1.285, 1.2862, 1.2841, 1.2855], [(0.1, 1.29), (0.2, 1.2), (0.3, 1.28), (0.4, None)])
    log = read_study_log(tmp_path / "lr", "lr")
    found = judge_log(log)
    assert (found.verdict, found.metric, found.tries) == ("keep", "best_val_loss", 2)
    assert found.candidate is not None
    assert found.candidate.name == "trial 5"
    assert found.reference is not None
    assert found.reference.runs == (0, 1, 2, 3)
    assert log.names_seeds
    assert log.unit_name == "trial"


def test_a_study_with_one_baseline_cannot_tell(tmp_path: Path) -> None:
    make_study(tmp_path / "lr", [1.285], [(0.1, 1.2)])
    found = judge_log(read_study_log(tmp_path / "lr", "lr"))
    assert found.verdict == "cannot tell"
    assert "`plateau confirm lr`" in found.next[0]


def make_confirmation(folder: Path) -> None:
    """Write the study of a confirmation whose candidate is better on the test data and worse on the validation data."""
    study = create_study(folder, directions=("minimize", "maximize"))
    study.set_user_attr(STUDY_SPEC, {"objectives": ["best_val_loss", "test_acc"]})
    values = {
        "baseline": [(1.2, 0.5), (1.201, 0.51), (1.199, 0.49)],
        "trial 7": [(1.285, 0.9), (1.2862, 0.91), (1.2841, 0.89), (1.2842, 0.88), (1.284, 0.88), (1.283, 0.87)],
    }
    for config, pairs in values.items():
        for seed, pair in enumerate(pairs):
            run = {"config": config, "seed": seed}
            attrs = {FIXED_VALUES: {"lr": 3.0}, SEED_RUN: run, RESULT: {"status": "completed"}}
            study.add_trial(optuna.trial.create_trial(values=pair, user_attrs=attrs))


def test_trials_of_a_confirmation_are_judged_by_its_metric(tmp_path: Path) -> None:
    folder = tmp_path / "confirm"
    make_confirmation(folder)
    with pytest.raises(ConfigError, match=r"has no confirm.json; run plateau confirm again"):
        read_study_log(folder, "confirm")
    write_json(folder / CONFIRM_FILE, {"metric": "test_acc"})
    log = read_study_log(folder, "confirm")
    assert (log.metric, log.direction) == ("test_acc", "maximize")
    assert [len(config.values) for config in log.configs] == [3, 6]
    assert log.configs[0].is_baseline
    assert judge_log(log).verdict == "keep"
    write_json(folder / CONFIRM_FILE, {"metric": "f1"})
    with pytest.raises(ConfigError, match=r"confirm.json: metric: f1"):
        read_study_log(folder, "confirm")


def test_a_study_in_a_database_is_read(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db"
    make_study(tmp_path / "lr", [1.285, 1.2862, 1.2841, 1.2855], [(0.1, 1.29), (0.2, 1.2)], storage)
    assert judge_log(read_study_log(tmp_path / "lr", "lr")).verdict == "keep"
    (tmp_path / "studies.db").rename(tmp_path / "moved.db")
    with pytest.raises(ConfigError, match=r"studies.db is missing"):
        read_study_log(tmp_path / "lr", "lr")
    log = read_study_log(tmp_path / "lr", "lr", f"sqlite:///{tmp_path}/moved.db")
    assert judge_log(log).verdict == "keep"


def test_a_study_without_trials_is_refused(tmp_path: Path) -> None:
    make_study(tmp_path / "lr", [], [])
    with pytest.raises(ConfigError, match="no trial is over"):
        read_study_log(tmp_path / "lr", "lr")
