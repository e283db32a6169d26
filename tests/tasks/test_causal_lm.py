"""Causal language modelling: recorded losses, scored positions and metrics."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from harness.core.events import Event, StepEnd
from harness.core.seeding import seed_everything
from harness.data.tokens import TokenRows
from harness.training.evaluation import evaluate
from harness.training.loop import Trainer
from tests.token_streams import LENGTH, VOCABULARY, make_generated_lm
from tests.toy_task import CPU, toy_plan, toy_state

RECORDED_LOSSES = {
    1: 4.186403,
    5: 3.685145,
    9: 3.124505,
    13: 2.640505,
    17: 2.059753,
}  # by step, in nats/token: torch 2.13, CPU, one thread


def first_losses(micro_batch_size: int = 16, steps: int = 20, dropout: float = 0.0) -> list[float]:
    task = make_generated_lm(dropout=dropout)
    events: list[Event] = []
    plan = toy_plan(steps, micro_batch_size=micro_batch_size)
    seed_everything(0)
    Trainer(task, toy_state(task, lr=0.01), plan, CPU, emit=events.append).train()
    return [event.loss for event in events if isinstance(event, StepEnd)]


def test_first_losses_match_recorded_values() -> None:
    losses = first_losses()
    assert {step: losses[step - 1] for step in RECORDED_LOSSES} == pytest.approx(RECORDED_LOSSES, rel=1e-4)


@pytest.mark.parametrize("micro_batch_size", [8, 4])
def test_accumulation_does_not_change_losses(micro_batch_size: int) -> None:
    assert first_losses(micro_batch_size) == pytest.approx(first_losses(), abs=1e-6)


def test_same_seed_is_bit_identical_with_dropout() -> None:
    assert first_losses(dropout=0.2) == first_losses(dropout=0.2)


def test_batch_loss_is_the_sum_of_its_rows() -> None:
    task = make_generated_lm()
    task.model.eval()
    batch = task.get_batch(0, 8)
    rows = task.split_batch(batch, 1)
    assert task.compute_loss(batch).sum.item() == pytest.approx(
        sum(task.compute_loss(row).sum.item() for row in rows), rel=1e-5
    )
    assert task.count_scored(batch) == sum(task.count_scored(row) for row in rows) < task.count_tokens(batch)


def test_prompt_is_not_scored() -> None:
    task = make_generated_lm()
    row = task.data.train
    batch = row.make_batch([0])
    first_third = int(row.lengths[0]) // 3
    assert (batch.targets[0, :first_third] == -100).all()
    assert batch.n_scored == row.lengths[0] - first_third


def test_labels_are_shifted_exactly_once() -> None:
    task = make_generated_lm()
    task.model.eval()
    rows = task.data.train
    start, length = int(rows.starts[3]), int(rows.lengths[3])
    tokens = torch.tensor(rows.stream[start : start + length + 1].astype("int64"))
    logits = task.model(input_ids=tokens[None]).logits[0]
    nats = F.cross_entropy(logits[:-1], tokens[1:], reduction="none")
    expected = nats[torch.tensor(rows.is_scored[start + 1 : start + length + 1])].sum().item()
    assert task.compute_loss(rows.make_batch([3])).sum.item() == pytest.approx(expected, rel=1e-5)


def test_evaluation_is_independent_of_eval_batch_size() -> None:
    reports = [evaluate(make_generated_lm(size), CPU) for size in (1, 7, 64)]
    for report in reports:
        assert report["coverage"].value == 1.0
        assert report["loss"].value == pytest.approx(reports[0]["loss"].value, rel=1e-6)
        assert report["loss"].standard_error == pytest.approx(reports[0]["loss"].standard_error, rel=1e-5)


def test_coverage_shows_dropped_rows() -> None:
    task = make_generated_lm()
    val = task.data.val
    kept = TokenRows(val.stream, val.is_scored, val.starts[:-10], val.lengths[:-10], val.scored_per_row[:-10])
    task.data = replace(task.data, val=kept)
    assert evaluate(task, CPU)["coverage"].value == pytest.approx(
        1 - val.scored_per_row[-10:].sum() / val.scored_per_row.sum()
    )


def test_metrics_are_the_loss_in_other_units() -> None:
    task = make_generated_lm()
    report = evaluate(task, CPU)
    nats = report["loss"].value * task.data.val.n_scored
    assert report["perplexity"].value == pytest.approx(math.exp(report["loss"].value))
    assert report["nats_per_character"].value == pytest.approx(nats / 1000)
    assert report["bits_per_byte"].value == pytest.approx(nats / math.log(2) / 1200)
    assert {metric.unit for metric in report.values()} >= {"nats/token", "bits/byte", "nats/character"}


def test_random_weights_start_near_uniform_guess() -> None:
    task = make_generated_lm()
    assert evaluate(task, CPU)["loss"].value == pytest.approx(task.constants["ln_vocabulary"], abs=0.3)
    assert task.constants["ln_vocabulary"] == math.log(VOCABULARY)
    assert task.data.sequence_length == LENGTH
