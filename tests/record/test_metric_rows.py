"""Rows of metrics against values computed by hand."""

import math
from pathlib import Path

import pytest

from harness.core.events import Event, FinalTest, Notice, OutOfMemory
from harness.core.task import Metric
from harness.record.metric_rows import MetricAggregator, MetricRow, describe_event
from tests.observers.sample_events import eval_end, run_end, run_start, step_end


def rows(*events: Event) -> list[MetricRow]:
    aggregate = MetricAggregator()
    return [row for row in map(aggregate, events) if row is not None]


def test_rows_are_due_every_log_every_steps_and_at_the_end(tmp_path: Path) -> None:
    start = run_start(tmp_path, total_steps=7, log_every=3, constants={})
    whole = [start, *map(step_end, range(1, 8)), run_end(step=7)]
    assert [row.step for row in rows(*whole)] == [3, 6, 7]
    cut_short = [start, *map(step_end, range(1, 6)), run_end("interrupted", "stopped", step=5)]
    assert [row.step for row in rows(*cut_short)] == [3, 5]


def test_row_holds_means_and_speeds_of_its_own_steps(tmp_path: Path) -> None:
    steps = [
        step_end(1, 4.0, grad_norm=0.5, is_clipped=False, seconds=0.1, step_tokens=100, tokens=100),
        step_end(2, 2.0, grad_norm=2.5, is_clipped=True, seconds=0.3, step_tokens=300, tokens=400, lr=0.02),
        step_end(3, 9.0),
    ]
    first, second = rows(run_start(tmp_path, total_steps=3, log_every=2, constants={}), *steps)
    assert (first.step, first.tokens) == (2, 400)
    assert first.metrics == pytest.approx(
        {
            "train/loss": 3.0,
            "train/lr": 0.02,
            "train/grad_norm": 1.5,
            "train/clip_fraction": 0.5,
            "train/tokens": 400,
            "perf/tokens_per_second": 1000.0,
            "perf/steps_per_second": 5.0,
        }
    )
    assert second.metrics["train/loss"] == 9.0


def test_skipped_step_is_not_clipped_and_has_no_norm(tmp_path: Path) -> None:
    skipped = step_end(1, 3.0, grad_norm=math.inf, is_clipped=True, skips=1)
    start = run_start(tmp_path, total_steps=4, log_every=2, constants={})
    mixed, skipped_only = rows(start, skipped, step_end(2), *(step_end(s, grad_norm=math.nan, skips=s) for s in (3, 4)))
    assert mixed.metrics["train/grad_norm"] == 1.5
    assert mixed.metrics["train/clip_fraction"] == 0.5
    assert "train/grad_norm" not in skipped_only.metrics


def test_infinite_losses_of_both_signs_are_nan(tmp_path: Path) -> None:
    start = run_start(tmp_path, total_steps=2, log_every=2, constants={})
    [row] = rows(start, step_end(1, math.inf), step_end(2, -math.inf))
    assert math.isnan(row.metrics["train/loss"])


def test_evaluation_row_holds_standard_errors_and_units(tmp_path: Path) -> None:
    metrics = {"loss": Metric(3.5, "nats/token", 0.01), "coverage": Metric(1.0, "share")}
    [row] = rows(eval_end(40, 3.5, 3.25, metrics=metrics))
    assert (row.step, row.tokens) == (40, 4000)
    assert row.metrics == {"val/loss": 3.5, "val/loss_se": 0.01, "val/coverage": 1.0, "val/best_loss": 3.25}
    assert row.units == {"val/loss": "nats/token", "val/coverage": "share"}


def test_final_test_row_has_its_own_names(tmp_path: Path) -> None:
    metrics = {"loss": Metric(3.5, "nats/token", 0.01), "loss_32": Metric(1.0, "share")}
    [row] = rows(FinalTest(40, 4000, 20, metrics))
    assert (row.step, row.tokens) == (40, 4000)
    assert row.metrics == {"test/loss": 3.5, "test/loss_se": 0.01, "test/loss_32": 1.0}
    assert row.units == {"test/loss": "nats/token", "test/loss_32": "share"}


def test_no_best_loss_before_the_first_finite_one() -> None:
    [row] = rows(eval_end(0, math.nan, math.inf))
    assert "val/best_loss" not in row.metrics


def test_constants_are_a_row_at_step_0(tmp_path: Path) -> None:
    assert rows(run_start(tmp_path)) == [MetricRow(0, 0, {"constant/uniform": 8.32, "constant/unigram": 6.11})]


def test_describe_event() -> None:
    assert describe_event(Notice("no warm-up")) == "no warm-up"
    assert "out of memory, micro-batches of 16 are split" in describe_event(
        OutOfMemory(3, 16, "tried to allocate 2 GiB")
    )
    assert describe_event(step_end(3)) is None
