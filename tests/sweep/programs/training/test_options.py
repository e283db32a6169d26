"""Options in the names of hydra-optuna-sweeper mean what they mean there."""

from dataclasses import asdict
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness.core.errors import ConfigError
from harness.sweep.programs.training.options import TrainingOptions, read_training_options

STOCK = {"n_trials": None, "n_jobs": None, "study_name": None, "storage": None, "max_failure_rate": None,
         "direction": "minimize"}  # fmt: skip


def read_options(*arguments: str, objectives: tuple[str, ...] = ("best_val_loss",), **stock: Any) -> TrainingOptions:
    given = OmegaConf.from_dotlist([one for one in arguments if one.startswith("sweep.")])
    plain = OmegaConf.create({"sweep": {**asdict(TrainingOptions()), "objectives": list(objectives)}})
    return read_training_options(OmegaConf.merge(plain, given), {**STOCK, **stock}, arguments)


@pytest.mark.parametrize(
    ("direction", "objectives", "message"),
    [
        (
            ["minimize", "minimize"],
            ["best_val_loss"],
            "[minimize,minimize] has 2 directions for 1 objective (best_",
        ),
        (["minimize"], ["best_val_loss", "tokens"], "[minimize] has 1 direction for 2 objectives (best_val_loss, tok"),
        (
            ["minimize", "maximize"],
            ["best_val_loss", "tokens"],
            "maximize: best_val_loss, tokens can only be min",
        ),
        ([], ["best_val_loss"], "[] has 0 directions for 1 objective"),
    ],
)
def test_directions_that_do_not_fit_the_objectives(direction, objectives, message) -> None:
    with pytest.raises(ConfigError) as raised:
        read_options(direction=direction, objectives=objectives)
    assert str(raised.value).startswith(f"hydra.sweeper.direction: {message}")


@pytest.mark.parametrize(
    ("direction", "objectives"),
    [
        ("minimize", ["best_val_loss"]),
        ("minimize", ["best_val_loss", "tokens"]),
        (["minimize"], ["best_val_loss"]),
        (["minimize", "minimize"], ["best_val_loss", "tokens"]),
    ],
)
def test_directions_that_fit(direction, objectives) -> None:
    assert read_options(direction=direction, objectives=objectives).objectives == objectives


def test_max_failure_rate_replaces_the_default_limit_of_failures_in_a_row() -> None:
    assert read_options().max_failures == 3
    assert read_options(max_failure_rate=1.0).max_failures is None
    assert read_options("sweep.max_failures=5", max_failure_rate=0.5).max_failures == 5


@pytest.mark.parametrize("name", ["my study", "team/lr", "größe 2", 80 * "a"])
def test_a_study_may_have_any_name_in_one_line(name) -> None:
    assert read_options(study_name=name).study == name


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", 81 * "a"])
def test_names_of_studies_that_are_rejected(name) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.study: "):
        read_options(study_name=name)
