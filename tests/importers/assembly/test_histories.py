"""Steps of rows: global, restarting in every epoch, epochs alone, or none."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest

from harness.diagnosis.history import History, RunFacts
from harness.importers.assembly.histories import assemble_histories
from harness.importers.rows import Row


def assemble(rows: Sequence[Row]) -> History:
    (history,) = assemble_histories(rows, RunFacts(name="log", source="a log"))
    return history


def steps(history: History, name: str = "train/loss") -> list[int]:
    found: list[int] = history[name].steps.tolist()
    return found


def losses(values: Sequence[float], **common: float) -> list[Row]:
    return [Row({"loss": value}, **common) for value in values]  # type: ignore[arg-type]  # numbers all


@pytest.mark.parametrize("first_epoch", [0, 1])
def test_evaluation_at_the_step_just_logged_is_no_restart(first_epoch: int) -> None:
    rows = []
    for epoch in range(3):
        rows += [Row({"loss": 4 - step / 1000}, step) for step in range(200 * epoch + 50, 200 * epoch + 201, 50)]
        rows.append(Row({"val_loss": 4 - epoch / 5}, 200 * (epoch + 1), epoch + first_epoch))
    history = assemble(rows)
    assert steps(history) == list(range(50, 601, 50))
    assert steps(history, "val/loss") == [200, 400, 600]
    assert "restart" not in history.facts.source


def test_rows_of_one_step_per_epoch_are_counted_on() -> None:
    rows = [Row({"loss": 3 - epoch / 10}, 500, epoch) for epoch in range(1, 6)]
    assert steps(assemble(rows)) == [500, 1000, 1500, 2000, 2500]


def test_evaluations_that_count_epochs_as_steps_are_at_the_step_before() -> None:
    rows = []
    for epoch in (1, 2, 3):
        rows.append(Row({"loss": 2 / epoch}, 70 * epoch, epoch))
        rows.append(Row({"val_loss": 2.1 / epoch}, epoch))
    history = assemble(rows)
    assert steps(history) == steps(history, "val/loss") == [70, 140, 210]


def test_epochs_alone_are_steps_and_said_to_be_epochs() -> None:
    history = assemble([Row({"loss": 3 / epoch, "val_loss": 3.1 / epoch}, epoch=epoch) for epoch in range(1, 25)])
    assert steps(history) == list(range(1, 25))
    assert (history.facts.steps_unit, history.facts.steps_per_epoch) == ("epochs", 1)
    assert history.describe_step(24) == "epoch 24"


@pytest.mark.parametrize(
    ("epochs", "scale"),
    [([0.31] * 4 + [0.32] * 4 + [0.33] * 4, 1000), ([1, 1, 1, 2, 2, 2], 100), ([0.5, 1.0, 1.5], 100)],
)
def test_rows_that_share_an_epoch_are_spread_over_it(epochs: list[float], scale: int) -> None:
    history = assemble([Row({"loss": 3 - at / 10}, epoch=epoch) for at, epoch in enumerate(epochs)])
    found = steps(history)
    assert len(found) == len(set(found)) == len(epochs)
    assert found == sorted(found)
    assert history.facts.steps_per_epoch == scale
    assert history.describe_step(found[0]) == f"epoch {epochs[0]:g}"
    gaps = [second - first for first, second in pairwise(found)]
    assert max(gaps) <= 2 * min(gaps)


def test_training_and_validation_rows_of_an_epoch_share_its_step() -> None:
    rows = [
        row for epoch in (1, 2, 3) for row in (Row({"loss": 2 / epoch}, epoch=epoch), Row({"val_loss": 2}, epoch=epoch))
    ]
    history = assemble(rows)
    assert steps(history) == steps(history, "val/loss") == [1, 2, 3]


def test_rows_without_steps_are_counted_and_called_rows() -> None:
    rows = [*losses([1.5, 1.4, 1.3]), Row({"val_loss": 1.6}), *losses([1.2, 1.1])]
    history = assemble(rows)
    assert steps(history) == [1, 2, 3, 4, 5]
    assert steps(history, "val/loss") == [3]
    assert history.facts.steps_unit == "rows"
    assert history.describe_step(5) == "row 5"
    assert "no steps in it: its rows are counted" in history.facts.source


def test_a_row_without_a_step_has_that_of_the_row_before() -> None:
    rows = [
        Row({"loss": 3}, 10),
        Row({"eval_loss": 3.1}, epoch=0.5),
        Row({"loss": 2}, 20),
        Row({"eval_loss": 2.5}, epoch=1.0),
    ]
    assert steps(assemble(rows), "val/loss") == [10, 20]


def test_several_rows_at_each_step_are_averaged() -> None:
    rows = [Row({"loss": loss}, step) for step in (1, 2, 3) for loss in (step, step + 1.0)]
    history = assemble(rows)
    assert history["train/loss"].values.tolist() == [1.5, 2.5, 3.5]
    assert "several rows a step: their mean" in history.facts.source


@pytest.mark.parametrize(
    ("fields", "total"),
    [({"total_steps": 4000}, 4000), ({"total_steps": 50}, None), ({"total_epochs": 10, "epoch": 1}, None)],
)
def test_length_of_the_run_is_known_unless_it_was_exceeded(fields: dict[str, float], total: int | None) -> None:
    rows = [Row({"loss": 2.0}, step, **fields) for step in (10, 60)]  # type: ignore[arg-type]  # numbers all
    assert assemble(rows).facts.total_steps == total


def test_length_in_epochs() -> None:
    rows = [Row({"loss": 2 / epoch}, epoch=epoch, total_epochs=30) for epoch in range(1, 9)]
    assert assemble(rows).facts.total_steps == 30


@pytest.mark.parametrize("name", ["step", "epoch", "epoch_length", "total_steps", "total_epochs"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30, -1e30])
def test_positions_that_no_run_has_are_ignored(name: str, value: float) -> None:
    rows = [Row({"loss": 3 - at / 10}, step=at, epoch=0.0) for at in range(1, 6)]
    setattr(rows[2], name, value)
    history = assemble(rows)
    assert len(history["train/loss"]) >= 4
    assert history.last_step == 5
