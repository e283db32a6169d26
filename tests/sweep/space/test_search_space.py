"""Search spaces: parsing of ranges, corners, grids and points."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.errors import ConfigError
from harness.sweep.space.search_space import (
    SearchSpace,
    format_range,
    is_in_range,
    match_choice,
    parse_choice,
    read_search_space,
)

CHOICES = {"optimizer": "adamw", "lora": "all_linear", "schedule": "cosine"}


def make_space(*ranges: str, conditional: dict | None = None) -> SearchSpace:
    return read_search_space(ranges, conditional or {}, CHOICES)


def read_range(text: str):
    return make_space(f"optimizer.lr={text}").ranges["optimizer.lr"]


GRAMMAR = {
    "interval(0.1,10)": FloatDistribution(0.1, 10),
    "interval(2,64)": FloatDistribution(2, 64),
    "int(interval(2,64))": IntDistribution(2, 64),
    "tag(log,interval(1e-4,0.1))": FloatDistribution(1e-4, 0.1, log=True),
    "tag(log,int(interval(2,64)))": IntDistribution(2, 64, log=True),
    "range(1,4)": IntDistribution(1, 3),
    "range(0,9,2)": IntDistribution(0, 8, step=2),
    "range(0.1,0.4,0.1)": FloatDistribution(0.1, 0.3, step=0.1),
    "range(0.7,0.9,0.1)": FloatDistribution(0.7, 0.8, step=0.1),
    "1,2.5": CategoricalDistribution([1, 2.5]),
    "true,false": CategoricalDistribution([True, False]),
    "null,1.0": CategoricalDistribution(["null", 1.0]),
    "'a,b','it is'": CategoricalDistribution(["'a,b'", "'it is'"]),
    "'1','2'": CategoricalDistribution(["'1'", "'2'"]),
    "[0.9,0.99],[0.8]": CategoricalDistribution(["[0.9,0.99]", "[0.8]"]),
    "{x:1},{x:2}": CategoricalDistribution(["{x:1}", "{x:2}"]),
    "choice(a,b)": CategoricalDistribution(["a", "b"]),
}


@pytest.mark.parametrize("text", GRAMMAR)
def test_every_form_of_sweep_syntax_is_parsed_and_formatted(text) -> None:
    assert read_range(text) == GRAMMAR[text]
    assert read_range(format_range(read_range(text))) == GRAMMAR[text]


OPTIMIZERS = {
    "optimizer=adamw": {"optimizer.lr": "tag(log,interval(1e-4,1e-2))"},
    "optimizer=sgd": {"optimizer.lr": "interval(1,10)", "optimizer.momentum": "0,0.9"},
}


def test_a_conditional_range_holds_where_its_choice_does() -> None:
    space = make_space("optimizer=adamw,sgd", "lora.rank=2,4", conditional=OPTIMIZERS)
    assert space.is_conditional
    assert list(space.active_ranges({})) == ["optimizer", "lora.rank", "optimizer.lr"]
    assert format_range(space.active_ranges({"optimizer": "sgd"})["optimizer.lr"]) == "interval(1.0,10.0)"
    assert space.searched_keys == {"optimizer", "lora.rank", "optimizer.lr", "optimizer.momentum"}
    assert "optimizer.momentum @ optimizer=sgd" in space.format_ranges()


def test_a_conditional_range_of_a_fixed_choice_is_unconditional() -> None:
    space = read_search_space([], OPTIMIZERS, {**CHOICES, "optimizer": "sgd"})
    assert not space.is_conditional
    assert space.to_trial_params({"optimizer.lr": 2}) == {"optimizer.lr": 2}


def test_a_conditional_range_takes_precedence_over_a_general_one() -> None:
    space = make_space("optimizer=adamw,sgd,lion", "optimizer.lr=interval(20,30)", conditional=OPTIMIZERS)
    assert format_range(space.active_ranges({"optimizer": "sgd"})["optimizer.lr"]) == "interval(1.0,10.0)"
    assert format_range(space.active_ranges({"optimizer": "lion"})["optimizer.lr"]) == "interval(20.0,30.0)"


def test_a_conditional_range_narrows_a_group_that_is_searched_too() -> None:
    conditional = {"optimizer=muon": {"schedule": "linear,constant"}}
    space = make_space("optimizer=adamw,muon", "schedule=cosine,wsd", conditional=conditional)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    suggested = [space.suggest_values(study.ask()) for _ in range(20)]
    schedules = {
        optimizer: {values["schedule"] for values in suggested if values["optimizer"] == optimizer}
        for optimizer in ("adamw", "muon")
    }
    assert schedules == {"adamw": {"cosine", "wsd"}, "muon": {"linear", "constant"}}
    corners = list(space.iterate_corners())
    assert {corner["schedule"] for corner in corners if corner["optimizer"] == "muon"} == {"linear", "constant"}


def test_corners_cover_every_choice_and_both_bounds_of_every_range() -> None:
    corners = list(make_space("optimizer=adamw,sgd", "lora.rank=2,4,8", conditional=OPTIMIZERS).iterate_corners())
    for key, values in {"optimizer": {"adamw", "sgd"}, "lora.rank": {2, 4, 8}, "optimizer.momentum": {0, 0.9}}.items():
        assert {corner[key] for corner in corners if key in corner} == values
    lrs = {(corner["optimizer"], corner["optimizer.lr"]) for corner in corners}
    assert lrs == {("adamw", 1e-4), ("adamw", 1e-2), ("sgd", 1.0), ("sgd", 10.0)}
    assert all(("optimizer.momentum" in corner) == (corner["optimizer"] == "sgd") for corner in corners)


def test_a_grid_has_every_combination_and_the_last_key_varies_fastest() -> None:
    grid = make_space("seed=range(1,3)", "optimizer.lr=range(0.1,0.4,0.1)").list_grid_points()
    assert grid == [{"seed": seed, "optimizer.lr": lr} for seed in (1, 2) for lr in (0.1, 0.2, 0.3)]


@pytest.mark.parametrize(
    ("arguments", "conditional", "message"),
    [
        (["optimizer.lr=interval(1,2)"], {}, "a grid cannot run"),
        (["optimizer.lr=tag(log,interval(1,9))"], {}, "a grid cannot run"),
        (["optimizer=adamw,sgd"], OPTIMIZERS, "not supported by a grid"),
        (["seed=range(0,100000)", "lora.rank=range(1,1000)"], {}, "has 99900000 combinations; list at most 10000"),
    ],
)
def test_a_grid_rejects_continuous_conditional_and_huge_spaces(arguments, conditional, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make_space(*arguments, conditional=conditional).list_grid_points()


def test_values_are_converted_to_trial_params() -> None:
    space = make_space("optimizer=adamw,sgd", "optimizer.betas=[0.9,0.99],[0.8,0.9]", conditional=OPTIMIZERS)
    named = {"optimizer": "sgd", "optimizer.lr @ optimizer=sgd": 2}
    assert space.to_trial_params({"optimizer": "sgd", "optimizer.lr": 2}) == named
    assert space.to_trial_params({"optimizer.betas": [0.8, 0.9]}) == {"optimizer.betas": "[0.8,0.9]"}
    with pytest.raises(ConfigError, match=r"optimizer.momentum: not searched by this sweep"):
        space.to_trial_params({"optimizer.momentum": 0})


@pytest.mark.parametrize(
    ("text", "value", "is_in"),
    [
        ("true,false", True, True),
        ("1,2", True, False),
        ("1,2", 1.0, True),
        ("true,false", 1, False),
        ("null,1.0", None, True),
        ("1.0,2.0", None, False),
        ("[1,2],[3]", [1, 2], True),
        ("[1,2],[3]", [2], False),
        ("'1','2'", 1, False),
        ("'a b',c", "a b", True),
        ("interval(0,2)", True, False),
        ("interval(0,2)", "1", False),
        ("interval(0,2)", None, False),
        ("interval(0,2)", float("nan"), False),
        ("interval(0,2)", 1, True),
        ("interval(0,2)", 2.1, False),
        ("int(interval(1,8))", 8.0, True),
        ("int(interval(1,8))", 7.5, False),
        ("int(interval(1,8))", "many", False),
        ("int(interval(1,8))", [1], False),
        ("range(0,9,2)", 3, False),
        ("range(0.1,0.4,0.1)", 0.2, True),
        ("range(0.1,0.4,0.1)", 0.25, False),
    ],
)
def test_values_are_compared_with_choices_after_parsing(text, value, is_in) -> None:
    assert is_in_range(read_range(text), value) is is_in
    if is_in:
        assert parse_choice(match_choice(read_range(text), value)) == value
