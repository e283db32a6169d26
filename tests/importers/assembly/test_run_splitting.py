"""Several runs in one log, told apart from epochs, rollbacks and resumed trainings."""

import math
from collections.abc import Sequence

import pytest

from harness.diagnosis.history import History, RunFacts
from harness.importers.assembly.histories import assemble_histories
from harness.importers.rows import Row

Point = tuple[float, float]


def falling(steps: Sequence[int], start: float, end: float) -> list[Point]:
    """Losses that fall along a line over `steps`, with some noise."""
    n = max(len(steps) - 1, 1)
    return [(step, start + (end - start) * at / n + 0.003 * math.sin(7.0 * at)) for at, step in enumerate(steps)]


def read_points(points: Sequence[Point], name: str = "loss") -> list[History]:
    return assemble_histories([Row({name: loss}, step=step) for step, loss in points], RunFacts(name="log"))


def lengths(histories: Sequence[History]) -> list[int]:
    return [len(history["train/loss"]) for history in histories]


SECOND_RUNS = {
    "longer": falling(range(0, 500, 10), 3.1, 2.2),
    "shorter": falling(range(0, 120, 10), 3.05, 2.9),
    "as long": falling(range(0, 400, 10), 3.0, 1.2),
    "another interval": falling(range(25, 900, 25), 3.2, 1.4),
    "from 1": falling(range(1, 200, 1), 2.9, 2.0),
    "diverged": [*falling(range(0, 200, 10), 3.0, 2.5), (200, math.nan)],
}


@pytest.mark.parametrize("second", SECOND_RUNS.values(), ids=SECOND_RUNS)
def test_steps_that_start_again_with_the_loss_of_the_beginning_are_a_second_run(second: list[Point]) -> None:
    first = falling(range(0, 400, 10), 3.0, 1.5)
    histories = read_points([*first, *second])
    assert lengths(histories) == [len(first), len(second)]
    assert [history.facts.name for history in histories] == ["log run 1", "log run 2"]
    assert histories[1]["train/loss"].steps[0] == second[0][0]
    assert "run 2 of 2 in it" in histories[1].facts.source


def test_three_runs_of_which_one_failed_early() -> None:
    first, second = falling(range(1, 40), 5.0, 3.0), falling(range(1, 9), 5.1, 4.6)
    assert lengths(read_points([*first, *second, *falling(range(1, 60), 4.9, 2.5)])) == [39, 8, 59]


ONE_RUN = {
    "epochs that start where the last one ended": (
        [*falling(range(0, 50), 3.0, 2.0), *falling(range(0, 50), 2.0, 1.5), *falling(range(0, 30), 1.5, 1.4)], 129,
    ),
    "epochs of unequal length": (
        [*falling(range(0, 60), 3.0, 2.0), *falling(range(0, 41), 2.0, 1.5), *falling(range(0, 70), 1.5, 1.1)], 170,
    ),
    "epochs of a flat loss": ([*falling(range(0, 50), 0.693, 0.693), *falling(range(0, 50), 0.694, 0.693)], 99),
    "a run that was resumed where it ended": (
        [*falling(range(10, 500, 10), 3.0, 2.0), *falling(range(500, 900, 10), 2.0, 1.8)], 890,
    ),
    "a run that was resumed from its last checkpoint": (
        [*falling(range(10, 510, 10), 3.0, 2.0), *falling(range(410, 900, 10), 2.2, 1.8)], 890,
    ),
    "a rollback before a spike": (
        [*falling(range(0, 300), 3.0, 2.0), *falling(range(300, 330), 6.0, 5.0), *falling(range(280, 500), 2.0, 1.5)],
        499,
    ),
    "rows printed twice": (2 * falling(range(0, 400, 10), 3.0, 2.0), 390),
    "a table sorted by name": (sorted(falling(range(0, 400, 10), 3.0, 2.0), key=lambda point: str(point[0])), 390),
    "latest first": (falling(range(0, 400, 10), 3.0, 2.0)[::-1], 390),
    "the end before the beginning": (
        [*falling(range(200, 400, 10), 2.0, 1.0), *falling(range(0, 200, 10), 3.0, 2.0)], 390,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("points", "last_step"), ONE_RUN.values(), ids=ONE_RUN)
def test_one_run_stays_one(points: list[Point], last_step: int) -> None:
    (history,) = read_points(points)
    assert history.last_step == last_step
    assert history.facts.name == "log"


def test_an_interrupted_repetition_does_not_shorten_the_run() -> None:
    points = falling(range(0, 400, 10), 3.0, 2.0)
    (history,) = read_points([*points, *points[:15]])
    assert history.last_step == 390


def test_epochs_that_start_again_are_a_second_run() -> None:
    rows = [Row({"loss": 3 - 0.2 * epoch - 0.001 * step}, step, epoch) for _ in range(2) for epoch in (0, 1, 2)
            for step in range(0, 100, 20)]  # fmt: skip
    rows = [*rows[:15], *(Row({"loss": row.values["loss"] + 0.1}, row.step, row.epoch) for row in rows[15:])]
    histories = assemble_histories(rows, RunFacts())
    assert [history["train/loss"].steps[-1] for history in histories] == [280, 280]


def test_runs_with_names_and_a_restart_in_one_of_them() -> None:
    rows = [
        *(Row({"loss": loss}, step, run="a") for step, loss in falling(range(5), 3, 2)),
        *(Row({"loss": loss}, step, run="b") for step, loss in falling(range(9), 3, 2)),
        *(Row({"loss": loss}, step, run="b") for step, loss in falling(range(7), 3.1, 2)),
    ]
    histories = assemble_histories(rows, RunFacts(name="log"))
    assert {history.facts.name: len(history["train/loss"]) for history in histories} == {
        "log a": 5, "log b run 1": 9, "log b run 2": 7,
    }  # fmt: skip


def test_evaluation_at_the_start_of_the_second_run_belongs_to_it() -> None:
    rows: list[Row] = []
    for start in (3.0, 3.1):
        rows.append(Row({"val_loss": start + 0.5}, 0))
        rows += [Row({"loss": loss}, step) for step, loss in falling(range(0, 300, 10), start, 2.0)]
        rows.append(Row({"val_loss": 2.2}, 290))
    histories = assemble_histories(rows, RunFacts())
    assert [history["val/loss"].steps.tolist() for history in histories] == [[0, 290], [0, 290]]


@pytest.mark.parametrize("is_interleaved", [True, False])
def test_ranks_are_averaged_and_a_nan_of_one_counts(is_interleaved: bool) -> None:
    rows = [
        Row({"loss": 3 - step / 10 + rank / 100, "lr": 1e-3}, step, rank=str(rank))
        for step in range(1, 11) for rank in range(4)
    ]  # fmt: skip
    rows.append(Row({"loss": 1.0}, 11, rank="0"))
    rows.append(Row({"loss": math.nan}, 11, rank="1"))
    if not is_interleaved:
        rows.sort(key=lambda row: row.rank or "")
    (history,) = assemble_histories(rows, RunFacts())
    assert history["train/loss"].steps.tolist() == list(range(1, 12))
    assert history["train/loss"].values[0] == pytest.approx(2.915)
    assert history["train/loss"].values[-1] == math.inf
    assert history["train/lr"].values.tolist() == [1e-3] * 10


def test_readings_above_the_log_are_no_run() -> None:
    program = [Row({}, step=1), Row({"val_loss": 3.27}), Row({"val_loss": 0.0})]
    for n_above in (2, 3):
        log = [Row({"val_loss": loss}, step) for step, loss in falling(range(0, 1500, 250), 10.8, 3.3)]
        (history,) = assemble_histories([*program[:n_above], *log], RunFacts())
        assert history["val/loss"].steps.tolist() == list(range(0, 1500, 250))
        assert history["val/loss"].values[0] == pytest.approx(10.8)
