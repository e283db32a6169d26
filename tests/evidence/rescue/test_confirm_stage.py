"""Conclusions from confirmations: what was shown, by how much, and the command to train with it."""

import pytest

from harness.evidence.confirm.plan import ConfirmPlan, evaluate_runs
from harness.evidence.confirm.result import ConfirmResult
from harness.evidence.rescue.confirm_stage import conclude, format_values
from tests.evidence.confirm.test_plan import DrawLoss, draw_with_effect, make_plan, run_plan


def confirm(plan: ConfirmPlan, draw: DrawLoss) -> ConfirmResult:
    runs, _ = run_plan(plan, draw)
    commands = {name: f"python run.py {format_values(config.values)}" for name, config in plan.configs.items()}
    return ConfirmResult(
        "study", "plateau confirm study", plan, runs, evaluate_runs(plan, runs), "decided", "", commands
    )


def test_better_config_is_named_with_its_interval_and_its_command() -> None:
    ending = conclude(confirm(make_plan(), draw_with_effect(-1)))
    assert ending.result == "better"
    assert ending.sentence.startswith("better config shown: lr=0: loss -1.001 [-1.014, -0.9869]")
    assert "] on the test split, 4 seeds, chosen from 24 trials" in ending.sentence
    assert ending.command == "python run.py lr=0"


def test_of_several_better_candidates_the_one_that_the_sweep_ranked_first_is_recommended() -> None:
    """Their order in the confirmation is partly that of luck on the test data."""
    effects = {"baseline": 0.0, "trial 1": -1.0, "trial 2": -2.0, "trial 3": 5.0}
    noise = draw_with_effect(0)
    ending = conclude(confirm(make_plan(3), lambda config, seed: (noise("baseline", seed) or 0) + effects[config]))
    assert ending.command == "python run.py lr=0"
    assert "lr=0: loss -0.99" in ending.sentence


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_nothing_is_recommended_if_no_candidate_is_better(effect) -> None:
    ending = conclude(confirm(make_plan(), draw_with_effect(effect)))
    assert (ending.result, ending.command) == ("not shown", "")
    assert ending.sentence.startswith("no better config was shown within this budget: loss of trial 1 differs by ")


def test_higher_is_better_where_the_study_maximizes() -> None:
    ending = conclude(confirm(make_plan(direction="maximize"), draw_with_effect(1)))
    assert ending.result == "better"
    assert "loss +" in ending.sentence


def test_diverged_candidate_is_not_recommended() -> None:
    noise = draw_with_effect(0)
    plan = make_plan()
    ending = conclude(confirm(plan, lambda config, seed: noise(config, seed) if config == "baseline" else float("nan")))
    assert ending.result == "not shown"
    assert "differs by +∞ [+∞, +∞]" in ending.sentence


def test_values_have_few_digits() -> None:
    assert format_values({"optimizer.lr": 0.007148860943747214, "lora.rank": 8, "loop.grad_clip": None}) == (
        "optimizer.lr=0.007149, lora.rank=8, loop.grad_clip=None"
    )
