"""A note if one range of the LR is searched for optimizers that need others."""

import pytest

from harness.config.group_options import list_options
from harness.sweep.programs.training.config_space import read_config_space
from harness.sweep.programs.training.request import compose_sweep_request
from harness.sweep.programs.training.usual_lrs import describe_unusual_lrs, read_usual_ranges

OWN_RANGES = {"optimizer=lion": {"optimizer.lr": "log(1e-5,1e-2)"}, "optimizer=sgd": {"optimizer.lr": "log(1e-2,1)"}}


@pytest.mark.parametrize(
    ("arguments", "conditional", "noted"),
    [
        (["optimizer=adamw,lion", "optimizer.lr=log(1e-3,1e-1)"], {}, "lion (1e-05 to 0.01);"),
        (["optimizer=lion,adamw,sgd", "optimizer.lr=1e-1"], {}, "lion (1e-05 to 0.01);"),
        (["optimizer.lr=1e-3,1e-4"], {}, "sgd (0.003 to 3);"),
        (["optimizer=adamw,sgd", "optimizer.lr=log(1e-3,1e-1)"], {}, ""),
        (["optimizer=lion,sgd"], OWN_RANGES, ""),
        (["optimizer=careful,sgd", "optimizer.lr=0.1,1"], {}, ""),
    ],
    ids=str,
)
def test_range_for_another_optimizer_is_noted(arguments, conditional, noted) -> None:
    notes = describe_unusual_lrs(read_config_space({}, arguments, conditional, {"optimizer": "sgd"}))
    assert len(notes) == bool(noted)
    assert all(noted in note for note in notes)


def test_a_sweep_says_it() -> None:
    request = compose_sweep_request(["experiment=smoke", "optimizer=sgd", "optimizer.lr=1e-3,1e-4"])
    assert any("usual LRs of sgd" in notice for notice in request.notices)


def test_every_optimizer_has_a_usual_range() -> None:
    assert sorted(read_usual_ranges()) == list_options("optimizer")
