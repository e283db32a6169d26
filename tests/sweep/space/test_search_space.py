"""Search spaces: parsing of ranges, corners, grids, points and trial configs."""

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.sweep.space.search_space import (
    SearchSpace,
    format_range,
    is_in_range,
    match_choice,
    parse_choice,
    read_search_space,
)
from harness.sweep.space.validation import baseline_values

CHOICES = {"optimizer": "adamw", "lora": "all_linear", "schedule": "cosine"}


def make_space(*arguments: str, params: dict | None = None, conditional: dict | None = None) -> SearchSpace:
    return read_search_space(params or {}, arguments, conditional or {}, CHOICES)


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


def test_the_command_line_takes_precedence_over_params() -> None:
    params = {"optimizer.lr": "interval(1,2)", "lora.rank": "2,4", "loop.grad_clip": "1,2", "seed": 3}
    space = make_space("optimizer.lr=interval(3,4)", "lora.rank=8", params=params)
    assert space.format_ranges() == {"loop.grad_clip": "1,2", "optimizer.lr": "interval(3.0,4.0)"}
    assert space.fixed == ("seed=3", "lora.rank=8")


def test_sweep_settings_are_not_overrides_of_trials() -> None:
    assert make_space("lora.rank=2,4", "sweep.n_trials=3", "pruner=none", "seed=1", "~loop.patience").fixed == (
        "seed=1", "~loop.patience",
    )  # fmt: skip


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
    space = make_space("optimizer=sgd", conditional=OPTIMIZERS)
    assert not space.is_conditional
    assert space.to_trial_params({"optimizer.lr": 2}) == {"optimizer.lr": 2}


def test_a_conditional_range_takes_precedence_over_a_general_one() -> None:
    space = make_space("optimizer=adamw,sgd,lion", params={"optimizer.lr": "interval(20,30)"}, conditional=OPTIMIZERS)
    assert format_range(space.active_ranges({"optimizer": "sgd"})["optimizer.lr"]) == "interval(1.0,10.0)"
    assert format_range(space.active_ranges({"optimizer": "lion"})["optimizer.lr"]) == "interval(20.0,30.0)"


def test_a_conditional_range_narrows_a_group_that_is_searched_too() -> None:
    conditional = {"optimizer=muon": {"schedule": "linear,constant"}}
    space = make_space("optimizer=adamw,muon", params={"schedule": "cosine,wsd"}, conditional=conditional)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    suggested = [space.suggest_values(study.ask()) for _ in range(20)]
    schedules = {
        optimizer: {values["schedule"] for values in suggested if values["optimizer"] == optimizer}
        for optimizer in ("adamw", "muon")
    }
    assert schedules == {"adamw": {"cosine", "wsd"}, "muon": {"linear", "constant"}}
    corners = list(space.iterate_corners())
    assert {corner["schedule"] for corner in corners if corner["optimizer"] == "muon"} == {"linear", "constant"}


def test_a_fixed_value_on_the_command_line_replaces_conditional_ranges() -> None:
    space = make_space("optimizer=adamw,sgd", "optimizer.lr=3", conditional=OPTIMIZERS)
    assert list(space.active_ranges({"optimizer": "sgd"})) == ["optimizer", "optimizer.momentum"]


def test_a_range_on_the_command_line_replaces_conditional_ranges() -> None:
    space = make_space("optimizer=adamw,sgd", "optimizer.lr=interval(5,6)", conditional=OPTIMIZERS)
    assert format_range(space.active_ranges({"optimizer": "sgd"})["optimizer.lr"]) == "interval(5.0,6.0)"


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


def test_the_baseline_is_a_point_of_the_space_for_values_of_any_type() -> None:
    space = make_space("optimizer.betas=[0.9,0.999],[0.9,0.95]", "loop.grad_clip=null,1", "optimizer.fused=true,false",
                 "lora.rank=8.0,4.0", "lora.target_modules=all_linear,attention", "optimizer=adamw,sgd")  # fmt: skip
    values, outside = baseline_values(space, space.compose_config({}))
    assert outside == []
    assert space.to_trial_params(values) == {
        "optimizer": "adamw", "optimizer.betas": "[0.9,0.999]", "loop.grad_clip": 1, "optimizer.fused": True,
        "lora.rank": 8.0, "lora.target_modules": "all_linear",
    }  # fmt: skip
    values, outside = baseline_values(space, space.compose_config({"loop.grad_clip": "null", "optimizer.fused": 0}))
    assert (match_choice(space.ranges["loop.grad_clip"], None), outside) == ("null", ["optimizer.fused=0"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.lr", 0.01),
        ("lora.rank", 4),
        ("loop.grad_clip", "null"),
        ("optimizer.fused", False),
        ("optimizer.betas", "[0.8,0.9]"),
        ("name", "'it is'"),
        ("name", "'1'"),
        ("optimizer", "sgd"),
        ("+optimizer.maximize", True),
        ("lora.target_modules", "[qkv,out]"),
    ],
)
def test_a_trial_has_the_config_that_hydra_composes_from_the_same_overrides(key, value) -> None:
    space = make_space("schedule=linear", "seed=7", "lora.dropout=0,0.1")
    expected = compose_config(["schedule=linear", "seed=7", f"{key}={value}"])
    assert OmegaConf.to_container(space.compose_config({key: value})) == OmegaConf.to_container(expected)


def test_groups_are_chosen_before_their_keys_are_set() -> None:
    cfg = make_space().compose_config({"optimizer.momentum": 0.5, "optimizer": "sgd"})
    assert cfg.optimizer.momentum == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer.lrr": 1}, r"optimizer.lrr: no such key; did you mean optimizer.lr\?"),
        ({"optimizer": "sgdd"}, r"optimizer=sgdd: optimizer has no option 'sgdd'; did you mean 'sgd'\?"),
        ({"optimizer": "null"}, "optimizer=null: a group needs an option"),
        ({"optimizer": "lion", "optimizer.eps": 1}, "optimizer.eps: no such key under optimizer=lion"),
        ({"tracking": "here"}, "tracking: a section with several keys"),
    ],
)
def test_a_config_that_cannot_be_composed_names_the_key(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make_space().compose_config(values)
