"""The search space of our configuration: where ranges come from, and the configs of trials."""

import pytest
from omegaconf import OmegaConf

from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.sweep.programs.training.config_space import ConfigSpace, read_config_space
from harness.sweep.space.search_space import baseline_values, format_range, match_choice
from tests.sweep.space.test_search_space import CHOICES, OPTIMIZERS


def make_space(*arguments: str, params: dict | None = None, conditional: dict | None = None) -> ConfigSpace:
    return read_config_space(params or {}, arguments, conditional or {}, CHOICES)


def test_the_command_line_takes_precedence_over_params() -> None:
    params = {"optimizer.lr": "interval(1,2)", "lora.rank": "2,4", "loop.grad_clip": "1,2", "seed": 3}
    space = make_space("optimizer.lr=interval(3,4)", "lora.rank=8", params=params)
    assert space.format_ranges() == {"loop.grad_clip": "1,2", "optimizer.lr": "interval(3.0,4.0)"}
    assert space.fixed == ("seed=3", "lora.rank=8")


def test_sweep_settings_are_not_overrides_of_trials() -> None:
    assert make_space("lora.rank=2,4", "sweep.n_trials=3", "pruner=none", "seed=1", "~loop.patience").fixed == (
        "seed=1", "~loop.patience",
    )  # fmt: skip


def test_a_fixed_choice_on_the_command_line_decides_which_condition_is_met() -> None:
    space = make_space("optimizer=sgd", conditional=OPTIMIZERS)
    assert not space.is_conditional
    assert space.to_trial_params({"optimizer.lr": 2}) == {"optimizer.lr": 2}


def test_a_fixed_value_on_the_command_line_replaces_conditional_ranges() -> None:
    space = make_space("optimizer=adamw,sgd", "optimizer.lr=3", conditional=OPTIMIZERS)
    assert list(space.active_ranges({"optimizer": "sgd"})) == ["optimizer", "optimizer.momentum"]


def test_a_range_on_the_command_line_replaces_conditional_ranges() -> None:
    space = make_space("optimizer=adamw,sgd", "optimizer.lr=interval(5,6)", conditional=OPTIMIZERS)
    assert format_range(space.active_ranges({"optimizer": "sgd"})["optimizer.lr"]) == "interval(5.0,6.0)"


def test_the_baseline_is_a_point_of_the_space_for_values_of_any_type() -> None:
    space = make_space("optimizer.betas=[0.9,0.999],[0.9,0.95]", "loop.grad_clip=null,1", "optimizer.fused=true,false",
                 "lora.rank=8.0,4.0", "lora.target_modules=all_linear,attention", "optimizer=adamw,sgd")  # fmt: skip
    values, outside = baseline_values(space, space.read_current_values(space.compose_config({})))
    assert outside == []
    assert space.to_trial_params(values) == {
        "optimizer": "adamw", "optimizer.betas": "[0.9,0.999]", "loop.grad_clip": 1, "optimizer.fused": True,
        "lora.rank": 8.0, "lora.target_modules": "all_linear",
    }  # fmt: skip
    changed = space.read_current_values(space.compose_config({"loop.grad_clip": "null", "optimizer.fused": 0}))
    values, outside = baseline_values(space, changed)
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
