"""Loss spikes: detection, warning, stop and rollback."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.core.checkpoint_names import checkpoint_name
from harness.core.events import EvalEnd, Event, Spike, StepEnd
from harness.core.seeding import seed_everything
from harness.core.state import TrainState
from harness.core.task import Loss
from harness.training.checkpoint import read_counters
from harness.training.checkpointer import AFTER_SPIKE, Checkpointer
from harness.training.loop import Trainer
from harness.training.policies import HandleSpike, Policy, Stop, stop_when_diverged
from harness.training.spikes import watch_spikes
from tests.toy_task import CPU, Rows, ToyTask, toy_plan, toy_state


def step_end(step: int, loss: float, skips: int = 0) -> StepEnd:
    return StepEnd(step, step, loss, 1e-3, 1.0, False, skips, 0.1, 1)


def decisions(policy: Policy, losses: list[float]) -> list[HandleSpike]:
    return [decision for step, loss in enumerate(losses, 1) if (decision := policy(step_end(step, loss)))]


def noise(count: int, level: float = 6.65, spread: float = 0.1) -> list[float]:
    generator = random.Random(0)
    return [generator.gauss(level, spread) for _ in range(count)]


def test_jump_is_detected_with_last_good_step() -> None:
    [spike] = decisions(watch_spikes("warn"), [*noise(100), 9.5, 9.6, 9.58, 9.5])
    assert (spike.last_good_step, spike.loss, spike.action) == (100, 9.58, "warn")
    assert spike.baseline_loss == pytest.approx(6.65, abs=0.05)


def test_noise_outliers_and_falling_loss_are_not_spikes() -> None:
    assert not decisions(watch_spikes("stop"), noise(2000))
    assert not decisions(watch_spikes("stop"), [*noise(100), 30.0, *noise(100), 30.0, 30.0, *noise(100)])
    assert not decisions(watch_spikes("stop"), [10 * math.exp(-step / 50) + 2 for step in range(500)])


def test_loss_that_stays_high_is_reported_once() -> None:
    assert len(decisions(watch_spikes("warn"), [*noise(100), *noise(300, level=9.0)])) == 1


def test_non_finite_loss_is_a_spike_only_with_rollback() -> None:
    decision = watch_spikes("rollback", lr_factor=0.5, max_rollbacks=1)(step_end(8, math.nan, skips=1))
    assert isinstance(decision, HandleSpike)
    assert (decision.last_good_step, decision.action, decision.lr_factor) == (7, "rollback", 0.5)
    assert watch_spikes("warn")(step_end(8, math.nan, skips=1)) is None


class BadBatchesTask(ToyTask):
    """A task whose targets are shifted by `shift` for `length` examples from data position `start` on."""

    start, length, shift = 16 * 65, 16 * 3, 50.0

    def get_batch(self, position: int, size: int) -> Rows:
        rows = super().get_batch(position, size)
        if self.start <= position < self.start + self.length:
            rows.targets = rows.targets + self.shift
        return rows


class NanBatchesTask(BadBatchesTask):
    """A task whose loss is nan on the shifted batches."""

    def compute_loss(self, batch: Rows) -> Loss:
        loss = super().compute_loss(batch)
        return Loss(loss.sum * math.nan, loss.count) if batch.targets.max() > 10 else loss


def train_with_spike(
    folder: Path,
    action: str,
    task: ToyTask | None = None,
    *,
    keep: int = 2,
    eval_every: int = 10,
    is_stopping: Callable[[list[Event]], bool] = lambda events: False,
    **rollback: float,
) -> tuple[Stop, TrainState, list[Event]]:
    """Train for 100 steps with checkpoints in `folder`; return why it stopped, the last state and the events."""
    task, events = task or BadBatchesTask(), list[Event]()
    state, checkpointer = toy_state(task, lr=0.002), Checkpointer(folder, CPU, keep)
    plan = toy_plan(100, eval_steps=frozenset(range(eval_every, 101, eval_every)))
    hooks: dict[str, Any] = {"save": checkpointer.save, "restore_before": checkpointer.restore_before}
    policies = [watch_spikes(action, **rollback), stop_when_diverged()]
    seed_everything(0)
    trainer = Trainer(
        task, state, plan, CPU, policies=policies, emit=events.append, is_stopping=lambda: is_stopping(events), **hooks
    )
    return trainer.train(), state, events


def spikes(events: list[Event]) -> list[Spike]:
    return [event for event in events if isinstance(event, Spike)]


def test_rollback_restores_checkpoint_cuts_lr_and_skips_bad_batches(tmp_path: Path) -> None:
    stop, state, events = train_with_spike(tmp_path, "rollback", lr_factor=0.5, max_rollbacks=1)
    [spike] = spikes(events)
    assert (spike.last_good_step, spike.step, spike.restored_step, spike.lr_factor) == (65, 68, 60, 0.5)
    assert spike.example_range == (16 * 65, 16 * 68)
    steps = [event for event in events if isinstance(event, StepEnd)]
    after = steps[next(i for i, event in enumerate(steps) if event.step == 68) + 1 :]
    assert after[0].step == 61
    assert {event.lr for event in after} == {0.001}
    assert max(event.loss for event in after) < 50
    assert (stop.status, state.step, state.examples) == ("completed", 100, 16 * 108)
    assert read_counters(tmp_path / checkpoint_name(100))["lr_factor"] == 0.5


def test_stops_after_max_rollbacks(tmp_path: Path) -> None:
    task = NanBatchesTask()
    task.length = 10**9
    stop, _, events = train_with_spike(tmp_path, "rollback", task, lr_factor=0.5, max_rollbacks=2)
    rollbacks = [(spike.restored_step, spike.is_continuing) for spike in spikes(events)]
    assert rollbacks == [(60, True), (60, True), (None, False)]
    assert stop.status == "diverged"
    assert stop.reason.startswith("the loss became nan after step")


def test_non_finite_loss_is_rolled_back_until_run_completes(tmp_path: Path) -> None:
    stop, state, events = train_with_spike(tmp_path, "rollback", NanBatchesTask(), lr_factor=0.5, max_rollbacks=4)
    assert stop == Stop("completed", "")
    assert [spike.restored_step for spike in spikes(events)] == [60] * 3
    assert all(torch.isfinite(parameter).all() for parameter in state.model.parameters())


def test_run_interrupted_after_rollback_resumes_past_bad_batches(tmp_path: Path) -> None:
    stop, state, _ = train_with_spike(
        tmp_path, "rollback", is_stopping=lambda events: bool(spikes(events)), lr_factor=0.5, max_rollbacks=1
    )
    assert (stop.status, state.step) == ("interrupted", 60)
    saved = read_counters(tmp_path / checkpoint_name(60))
    assert (saved["examples"], saved["lr_factor"], saved["rollbacks"]) == (16 * 68, 0.5, 1)


def test_checkpoint_before_undetected_spike_is_kept(tmp_path: Path) -> None:
    _, _, events = train_with_spike(tmp_path, "rollback", keep=1, eval_every=1, lr_factor=0.5, max_rollbacks=1)
    assert [spike.restored_step for spike in spikes(events)] == [65]


def test_spike_does_not_suppress_evaluation(tmp_path: Path) -> None:
    _, _, events = train_with_spike(tmp_path, "warn", eval_every=4)
    assert spikes(events)[0].step == 68
    assert [event.step for event in events if isinstance(event, EvalEnd)] == [0, *range(4, 101, 4)]


def test_rollback_marks_checkpoints_after_the_spike(tmp_path: Path) -> None:
    task = BadBatchesTask()
    task.start = 16 * 58  # detected at step 61, after the checkpoint of step 60
    _, _, events = train_with_spike(tmp_path, "rollback", task, lr_factor=0.5, max_rollbacks=1)
    assert spikes(events)[0].restored_step == 50
    assert (tmp_path / f"{checkpoint_name(60)}{AFTER_SPIKE}").is_dir()
    assert not read_counters(tmp_path / checkpoint_name(100))["last_spike_step"]


def test_warning_continues_and_marks_later_checkpoints(tmp_path: Path) -> None:
    stop, _, events = train_with_spike(tmp_path, "warn", keep=20)
    assert spikes(events)[0].restored_step is None
    assert stop.status == "completed"
    marks = {step: read_counters(tmp_path / checkpoint_name(step))["last_spike_step"] for step in (60, 70, 100)}
    assert marks == {60: 0, 70: 65, 100: 65}


def test_stop_ends_run_as_diverged(tmp_path: Path) -> None:
    stop, state, _ = train_with_spike(tmp_path, "stop")
    assert (stop.status, state.step) == ("diverged", 68)
    assert "after step 65" in stop.reason
    assert not (tmp_path / checkpoint_name(68)).exists()


def test_rollback_without_earlier_checkpoint_stops() -> None:
    task = BadBatchesTask()
    policies = [watch_spikes("rollback", lr_factor=0.5, max_rollbacks=1)]
    stop = Trainer(task, toy_state(task), toy_plan(100), CPU, policies=policies).train()
    assert stop.status == "diverged"
    assert "no earlier checkpoint to restore" in stop.reason
