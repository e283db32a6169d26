"""Ranges of a sweep file that do not apply are left out with a note; those on the command line are errors."""

import re

import pytest
from omegaconf import OmegaConf

from harness.config.compose import compose_config
from harness.config.group_options import list_options
from harness.core.errors import ConfigError
from harness.sweep.programs.training.file_ranges import fit_file_ranges
from harness.sweep.programs.training.request import TrainingRequest, compose_sweep_request
from harness.sweep.space.search_space import baseline_values

FILES = {
    "operator": ["data.train=x.pt", "data.validation=[x.pt]"],
    "gpt2_resume": ["start.run=RUN", "data.source.path=x"],
    "gpt2_lora": ["data.source.path=x"],
    "ltg_bert": ["data.source.path=x"],
    "headlines": ["data.source.path=x"],
}
"""Overrides that experiments for data from outside need, by the beginning of their names."""


def request_of(*overrides: str) -> TrainingRequest:
    return compose_sweep_request(overrides)


EXPERIMENTS = [
    pytest.param(name, marks=[pytest.mark.slow] if re.search("_(before|after)$", name) else [])
    for name in list_options("experiment")
]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_can_be_swept(experiment: str) -> None:
    needed = next((given for name, given in FILES.items() if experiment.startswith(f"{name}_")), [])
    needed = ["start.run=RUN"] if experiment == "gpt2_resume" else needed
    request = request_of(f"experiment={experiment}", *needed)
    assert "optimizer.lr" in request.space.ranges
    assert not request.space.conditional
    assert all(notice.startswith(("lora.rank is not searched", "start.restart_schedule")) for notice in request.notices)


@pytest.mark.parametrize("overrides", [["experiment=smoke"], ["lora=none", "start=scratch"]])
def test_range_without_its_key_is_not_searched(overrides: list[str]) -> None:
    request = request_of(*overrides)
    assert request.notices == ("lora.rank is not searched: lora=none has no such key",)
    assert set(request.space.ranges) == {"optimizer.lr", "loop.grad_clip", "schedule.warmup_ratio"}


def test_typed_range_without_its_key_is_an_error() -> None:
    request = request_of("experiment=smoke", "lora.rank=2,4")
    with pytest.raises(ConfigError, match=r"lora.rank: no such key"):
        request.space.compose_config({"lora.rank": 2})


def test_misspelt_range_in_a_file_stays_an_error() -> None:
    groups = {"optimizer": "adamw", "lora": "none"}
    fitted = fit_file_ranges({"optimizer.lrr": "1,2"}, {}, [], groups)
    assert fitted.params == {"optimizer.lrr": "1,2"}
    with pytest.raises(ConfigError, match=r"optimizer has no option 'adamww'; did you mean 'adamw'"):
        fit_file_ranges({}, {"optimizer=adamww": {"optimizer.lr": "1,2"}}, [], groups)


def test_range_for_some_of_the_searched_options() -> None:
    request = request_of("lora=none,all_linear")
    assert request.space.conditional.keys() == {"lora=all_linear"}
    assert set(request.space.active_ranges({"lora": "all_linear"})) - {"lora"} == {
        "optimizer.lr", "lora.rank", "loop.grad_clip", "schedule.warmup_ratio",
    }  # fmt: skip


def test_typed_alternative_replaces_a_range_of_the_file() -> None:
    swept, fixed = request_of("schedule.warmup_steps=10,20"), request_of("schedule.warmup_steps=10")
    for request in (swept, fixed):
        assert "schedule.warmup_ratio" not in request.space.ranges
        assert request.notices[0].startswith("schedule.warmup_ratio is not searched: schedule.warmup_steps=10")
    trial = swept.space.compose_config({"schedule.warmup_steps": 20})
    assert (trial.schedule.warmup_ratio, trial.schedule.warmup_steps) == (None, 20)
    assert (fixed.cfg.schedule.warmup_ratio, fixed.cfg.schedule.warmup_steps) == (None, 10)


def test_range_of_the_other_alternative_replaces_the_value_of_the_experiment() -> None:
    space = request_of("experiment=headlines", "sweeps=default").space
    trial = space.compose_config({"schedule.warmup_ratio": 0.1})
    assert (trial.schedule.warmup_ratio, trial.schedule.warmup_steps) == (0.1, None)


def test_typed_alternatives_together_are_an_error() -> None:
    request = request_of("sweeps=none", "loop.epochs=1,2", "loop.max_steps=5", "sweep.allow=[loop.epochs]")
    cfg = request.space.compose_config({"loop.epochs": 2})
    assert (cfg.loop.epochs, cfg.loop.max_steps) == (2, 5)


def test_operator_sweep_may_search_its_training_loss() -> None:
    assert request_of("experiment=operator").options.allow == ["task.loss"]
    assert request_of("experiment=operator", "task.loss=l2").options.allow == []


def test_other_optimizer_has_its_own_range() -> None:
    plain, lion = request_of(), request_of("optimizer=lion")
    assert plain.space.ranges["optimizer.lr"].high == 0.1
    assert lion.space.ranges["optimizer.lr"].high == 0.01
    both = request_of("experiment=headlines", "optimizer=adamw,lion").space
    assert both.active_ranges({"optimizer": "adamw"})["optimizer.lr"].high == 0.01
    assert both.active_ranges({"optimizer": "lion"})["optimizer.lr"].low == 1e-5
    decay = "optimizer.weight_decay"  # AdamW's, which is not coupled with the LR
    assert decay in both.active_ranges({"optimizer": "adamw"})
    assert decay not in both.active_ranges({"optimizer": "lion"})
    alone = request_of("experiment=headlines").space
    assert (alone.ranges["optimizer.lr"].high, alone.ranges[decay].choices) == (0.01, (0.0, 0.1))
    assert decay not in request_of("experiment=headlines", "optimizer=sgd").space.ranges


def test_null_takes_back_one_range_of_another_file() -> None:
    conditions = {"optimizer=adamw": {"optimizer.lr": None, "optimizer.weight_decay": "0.0,0.1"}}
    fitted = fit_file_ranges({"optimizer.lr": "interval(0.1,0.2)"}, conditions, [], {"optimizer": "adamw"})
    assert fitted.params == {"optimizer.lr": "interval(0.1,0.2)", "optimizer.weight_decay": "0.0,0.1"}


@pytest.mark.parametrize(
    "experiment",
    ["headlines", *(pytest.param(name, marks=pytest.mark.slow) for name in ("smoke", "ltg_bert", "operator"))],
)
def test_comparison_of_all_optimizers(experiment: str) -> None:
    request = request_of(f"experiment={experiment}", "sweeps=optimizers")
    options = list_options("optimizer")
    assert sorted(request.space.ranges["optimizer"].choices) == options
    for option in options:
        searched = request.space.active_ranges({"optimizer": option})["optimizer.lr"]
        assert searched.high / searched.low == pytest.approx(1000)
        own, trial = compose_config([f"optimizer={option}"]), request.space.compose_config({"optimizer": option})
        assert searched.low <= own.optimizer.lr <= searched.high
        if option != request.space.group_options["optimizer"]:
            assert OmegaConf.to_container(trial.optimizer) == OmegaConf.to_container(own.optimizer)
    values, outside = baseline_values(request.space, request.current_values)
    assert values["optimizer"] == request.space.group_options["optimizer"]
    assert values["optimizer.lr"] == request.cfg.optimizer.lr
    assert [setting.partition("=")[0] for setting in outside] in ([], ["schedule.warmup_ratio"])


def test_sweep_restarts_the_schedule_of_a_resumed_run() -> None:
    resumed = ["experiment=gpt2_resume_before", "start.run=RUN", "data.source.path=x"]
    request = request_of(*resumed)
    assert request.cfg.start.restart_schedule
    assert [notice.partition(",")[0] for notice in request.notices] == ["start.restart_schedule=true is set"]
    with pytest.raises(ConfigError, match=r"start.restart_schedule: false"):
        request_of(*resumed, "start.restart_schedule=false")
