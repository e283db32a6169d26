"""Findings while a run goes on: none that is likely to pass, and no advice that harms."""

import math
import random

import pytest

from harness.diagnosis.history import RunFacts
from harness.integrations.live_diagnosis import LoopDiagnosis, shorten_error


def find_live(rows: list[dict[str, float]], facts: RunFacts) -> list[tuple[str, int]]:
    """Return the kinds that are found while rows are added, with the row in which they are."""
    loop = LoopDiagnosis(facts, quiet=True)
    return [(one.kind, step) for step, row in enumerate(rows, 1) for one in loop.add_row(step, row)]


def make_clipped_rows(norms: list[float], is_rising: bool = False) -> list[dict[str, float]]:
    generator = random.Random(1)
    rows = []
    for step, norm in enumerate(norms, 1):
        loss = 2 + 3 * math.exp(-step / 80) if not is_rising else 50 + step / 10
        rows.append({"loss": loss + generator.gauss(0, 0.02), "grad_norm": norm * (1 + 0.2 * generator.random())})
        rows[-1] |= {"val_loss": loss + 0.1} if step % 20 == 0 else {}
    return rows


@pytest.mark.parametrize(("optimizer", "is_found"), [("SGD", True), ("AdamW", False), ("Lion", False)])
def test_clipping_is_judged_in_the_second_half_and_not_for_adaptive_optimizers(optimizer: str, is_found: bool) -> None:
    facts = RunFacts(total_steps=400, grad_clip=1.0, optimizer=optimizer)
    steps = [step for kind, step in find_live(make_clipped_rows([1.5] * 400), facts) if kind == "clipping binds"]
    assert bool(steps) == is_found
    assert all(step >= 200 for step in steps)


def test_no_clip_is_suggested_while_the_norms_explode() -> None:
    facts = RunFacts(total_steps=300, grad_clip=1.0, optimizer="SGD")
    norms = [1.5] * 120 + [1.5 * 1.1**step for step in range(120)]
    assert "clipping binds" not in dict(find_live(make_clipped_rows(norms), facts))


def test_a_loss_far_above_a_guess_is_neither_a_bug_nor_a_clip() -> None:
    facts = RunFacts(total_steps=200, grad_clip=1.0, optimizer="SGD", uniform_loss=3.9)
    kinds = dict(find_live(make_clipped_rows([80.0] * 150, is_rising=True), facts))
    assert not kinds.keys() & {"clipping binds", "never learnt"}


def evaluate_each(values: list[float]) -> list[dict[str, float]]:
    return [{"loss": 2.0 * 0.97**step, "val_loss": value} for step, value in enumerate(values)]


def test_a_validation_loss_that_comes_back_is_no_overfitting() -> None:
    hump = [1.3, 1.06, 1.03, 1.08, 1.1, 1.12, 1.13, 1.13, 1.1, 1.06, 1.02, 0.98, 0.95, 0.92]
    values = hump + [0.9 - 0.01 * step for step in range(46)]
    assert not find_live(evaluate_each(values), RunFacts(total_steps=60))


@pytest.mark.parametrize("n_evals", [5, 8, 20, 60])
def test_overfitting_is_found_while_it_goes_on(n_evals: int) -> None:
    values = [1 + abs(step - n_evals // 4) * 3 / n_evals for step in range(n_evals)]
    (kind, step), *_ = find_live(evaluate_each(values), RunFacts(total_steps=n_evals))
    assert kind == "overfitting"
    assert step >= max(5, n_evals // 4 + 4)


def test_the_summary_says_where_the_best_loss_is_now() -> None:
    lines: list[str] = []
    loop = LoopDiagnosis(RunFacts(total_steps=40), write=lines.append)
    values = [2 - 0.1 * step for step in range(8)] + [1.3 + 0.15 * step for step in range(8)]
    values += [0.9] + [1 + 0.1 * step for step in range(23)]
    for step, row in enumerate(evaluate_each(values), 1):
        loop.add_row(step, row)
    loop.conclude(is_complete=True)
    assert "1 found: overfitting (step 8; best is now step 17)" in "\n".join(lines)


def test_what_was_found_before_a_resume_is_not_printed_again() -> None:
    """The finding had passed when the checkpoint was made, and comes back."""
    values = [1 + abs(step - 10) * 0.1 for step in range(40)]
    rows = list(enumerate(evaluate_each(values), 1))
    loop = LoopDiagnosis(RunFacts(total_steps=40), quiet=True)
    loop.restore_rows(rows[:11], {"overfitting": 9})
    assert not [one for step, row in rows[11:] for one in loop.add_row(step, row) if one.kind == "overfitting"]


def test_a_warning_is_the_first_line_of_an_error() -> None:
    text = shorten_error(
        NotImplementedError("Could not run 'aten::norm' " + "with arguments " * 40 + "\n" + "CPU: x\n" * 99)
    )
    assert text.startswith("NotImplementedError: Could not run 'aten::norm' with arguments")
    assert len(text) < 200
    assert "\n" not in text
    assert shorten_error(KeyError()) == "KeyError: "
