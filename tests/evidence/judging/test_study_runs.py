from pathlib import Path

import optuna
import pytest

from harness.core.errors import ConfigError
from harness.evidence.judging.study_runs import read_study_log
from harness.sweep.study.storage import load_journal_study, open_storage
from harness.sweep.study.trial_attrs import BASELINE, FIXED_VALUES, RESULT, SEED_RUN, STUDY_SPEC
from tests.evidence.judging.loops import judge_log


def make_study(folder: Path, baseline: list[float], trials: list[tuple[float, float | None]]) -> None:
    """Write a study whose trials have a learning rate and a value; the baseline is run with several seeds."""
    folder.mkdir()
    study = optuna.create_study(storage=open_storage(None, folder), study_name=folder.name)
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


def test_trials_of_a_confirmation_are_grouped_by_their_configuration(tmp_path: Path) -> None:
    make_study(tmp_path / "confirm", [], [])
    study = load_journal_study(tmp_path / "confirm")
    for config, values in {"baseline": [1.285, 1.2862, 1.2841], "trial 7": [1.2, 1.201, 1.199]}.items():
        for seed, value in enumerate(values):
            run = {"config": config, "seed": seed}
            attrs = {FIXED_VALUES: {"lr": 3.0}, SEED_RUN: run, RESULT: {"status": "completed"}}
            study.add_trial(optuna.trial.create_trial(value=value, user_attrs=attrs))
    log = read_study_log(tmp_path / "confirm", "confirm")
    assert [len(config.values) for config in log.configs] == [3, 3]
    assert log.configs[0].is_baseline
    assert judge_log(log).verdict == "keep"


def test_a_study_without_trials_is_refused(tmp_path: Path) -> None:
    make_study(tmp_path / "lr", [], [])
    with pytest.raises(ConfigError, match="no trial is over"):
        read_study_log(tmp_path / "lr", "lr")
