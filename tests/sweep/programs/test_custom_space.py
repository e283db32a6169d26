"""hydra.sweeper.custom_search_space: what the user's own function may suggest, and how its mistakes are reported."""

from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import Trial

from harness.core.errors import ConfigError
from harness.sweep.programs.custom_space import check_custom_space, load_custom_space
from harness.sweep.programs.training.config_space import ConfigSpace, read_config_space
from harness.sweep.study.budget import Budget
from harness.sweep.study.trial_attrs import BASELINE
from harness.sweep.study.trial_queue import TrialQueue
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA, read_tiny_request

OWN_SPACES = """
def add_decay(cfg, trial):
    if "optimizer.weight_decay" not in trial.user_attrs:  # as the documentation of hydra-optuna-sweeper has it
        trial.suggest_float("optimizer.weight_decay", 0.5, 0.9)

def suggest_decay(cfg, trial):
    trial.suggest_float("optimizer.weight_decay", 0.0, cfg.optimizer.lr + trial.params["optimizer.lr"])

def suggest_rarely(cfg, trial):
    if trial.number:
        trial.suggest_float("optimizer.weight_decay", 0.0, 0.1)

def suggest_typo(cfg, trial):
    trial.suggest_float("optimizer.weight_decai", 0.0, 0.1)

def fail(cfg, trial):
    trial.params["model.depth"]
"""
FIXED = "optimizer.weight_decay=0.3"


@pytest.fixture(autouse=True)
def trusted_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_spaces.py").write_text(OWN_SPACES)
    monkeypatch.syspath_prepend(tmp_path)
    names = ("add_decay", "suggest_decay", "suggest_rarely", "suggest_typo", "fail")
    monkeypatch.setenv("HARNESS_TRUST", ",".join(f"own_spaces.{name}" for name in names))


def make_space(*fixed: str) -> ConfigSpace:
    return read_config_space({}, ["optimizer.lr=1e-3,1e-2", *fixed], {}, {"optimizer": "adamw"})


def claim_trials(name: str, *fixed: str, folder: Path) -> list[Trial | None]:
    """Return two trials that a worker claims, the first of which is the current config."""
    study, space = optuna.create_study(study_name="mine", sampler=RandomSampler(1)), make_space(*fixed)
    study.enqueue_trial({"optimizer.lr": 1e-3}, user_attrs={BASELINE: True})
    queue = TrialQueue(study, space, folder, load_custom_space(f"own_spaces.{name}", space.compose_config({}), fixed))
    queue.set_budget(Budget(n_trials=2))
    return [queue.claim_trial() for _ in range(2)]


@pytest.mark.parametrize(
    ("name", "fixed", "message"),
    [
        ("suggest_decay", [FIXED], f"suggests optimizer.weight_decay, which {FIXED} fixes; leave one of them out"),
        ("suggest_typo", [], "optimizer.weight_decai: no such key"),
        ("fail", [], "KeyError: 'model.depth'"),
    ],
)
def test_mistakes_of_the_function(name, fixed, message) -> None:
    space = make_space(*fixed)
    with pytest.raises(ConfigError) as raised:
        check_custom_space(f"own_spaces.{name}", space, space.compose_config({}), fixed, space.compose_config)
    assert str(raised.value).startswith(f"hydra.sweeper.custom_search_space: own_spaces.{name}: {message}")


def test_mistakes_are_found_before_a_study_is_created(places) -> None:
    given = [*TINY_WITHOUT_LORA, *places, FIXED, "hydra.sweeper.custom_search_space=own_spaces.suggest_decay"]
    with pytest.raises(ConfigError, match=f"suggests optimizer.weight_decay, which {FIXED} fixes"):
        read_tiny_request(*given)


def test_fixed_values_are_in_the_user_attributes(tmp_path) -> None:
    _, trial = claim_trials("add_decay", FIXED, folder=tmp_path)
    assert trial.user_attrs["optimizer.weight_decay"] == "0.3"
    assert trial.params.keys() == {"optimizer.lr"}


def test_the_first_trial_is_the_current_config_with_a_custom_space_too(tmp_path) -> None:
    first, second = claim_trials("add_decay", folder=tmp_path)
    assert first.params == {"optimizer.lr": 1e-3}
    assert 0.5 <= second.params["optimizer.weight_decay"] <= 0.9


def test_a_value_that_only_some_trials_suggest_fails_them(tmp_path) -> None:
    first, second = claim_trials("suggest_rarely", FIXED, folder=tmp_path)
    assert second is None
    failed = first.study.trials[1]
    assert f"which {FIXED} fixes" in failed.user_attrs["result"]["reason"]
