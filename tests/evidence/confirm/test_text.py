"""Confirmations in words."""

from dataclasses import replace
from typing import Literal

import pytest

from harness.evidence.confirm.plan import evaluate_runs
from harness.evidence.confirm.result import ConfirmResult
from harness.evidence.confirm.text import format_confirm_result
from tests.evidence.confirm.test_plan import draw_with_effect, make_plan, run_plan


@pytest.mark.parametrize(("direction", "word"), [("minimize", "worse"), ("maximize", "better")])
def test_the_direction_of_the_selection_gap_is_a_word(direction: Literal["minimize", "maximize"], word: str) -> None:
    plan = make_plan(direction=direction)
    plan = replace(plan, candidates=tuple(replace(one, selected_value=-100.0) for one in plan.candidates))
    runs, _ = run_plan(plan, draw_with_effect(0))
    runs = [replace(run, values={**run.values, plan.objective: -99.0}) for run in runs]
    result = ConfirmResult("study", "plateau confirm study", plan, runs, evaluate_runs(plan, runs), "decided", "", {})
    assert any(f"-99.00 on fresh seeds ({word} by 1.000)" in line for line in format_confirm_result(result))
