"""A loss that leaves its course: seen, told, stopped or brought back to the checkpoint before it."""

import math
import random

import pytest
import torch

from harness.core.events import EvalEnd, Event, Spike, StepEnd
from harness.core.seeding import seed_everything
from harness.core.task import Loss
from harness.training.checkpoint import AFTER_SPIKE, Checkpointer, checkpoint_name, read_counters
from harness.training.loop import train
from harness.training.policies import Decision, Policy, Stop, stop_when_diverged, watch_spikes
from tests.toy_task import CPU, ToyTask, toy_plan, toy_state


def step_end(step: int, loss: float, skips: int = 0) -> StepEnd:
    return StepEnd(step, step, loss, 1e-3, 1.0, False, skips, 0.1, 1)


def answers(policy: Policy, losses: list[float]) -> list[Decision]:
    return [answer for n, loss in enumerate(losses, 1) if (answer := policy(step_end(n, loss)))]


def noise(count: int, level: float = 6.65, spread: float = 0.1) -> list[float]:
    generator = random.Random(0)
    return [generator.gauss(level, spread) for _ in range(count)]


def test_a_jump_like_the_documents_is_a_spike_from_the_step_after_which_it_came() -> None:
    [spiked] = answers(watch_spikes("warn"), [*noise(100), 9.5, 9.6, 9.58, 9.5])
    assert (spiked.last_good_step, spiked.loss, spiked.action) == (100, 9.58, "warn")
    assert spiked.baseline_loss == pytest.approx(6.65, abs=0.05)


def test_noise_one_odd_batch_and_a_falling_loss_are_no_spikes() -> None:
    assert not answers(watch_spikes("stop"), noise(2000))
    assert not answers(watch_spikes("stop"), [*noise(100), 30.0, *noise(100), 30.0, 30.0, *noise(100)])
    assert not answers(watch_spikes("stop"), [10 * math.exp(-step / 50) + 2 for step in range(500)])


def test_a_loss_that_stays_at_a_new_height_is_told_once() -> None:
    assert len(answers(watch_spikes("warn"), [*noise(100), *noise(300, level=9.0)])) == 1


def test_a_loss_that_is_not_finite_is_a_spike_where_it_can_be_brought_back() -> None:
    policy = watch_spikes("rollback", lr_factor=0.5, max_rollbacks=1)
    answer = policy(step_end(8, math.nan, skips=1))
    assert (answer.last_good_step, answer.action, answer.lr_factor) == (7, "rollback", 0.5)
    assert watch_spikes("warn")(step_end(8, math.nan, skips=1)) is None


class Rough(ToyTask):
    """A task whose losses, from example `since` of the data on, are `height` times what they were, for `length`
    examples."""

    since, length, height = 16 * 65, 16 * 3, 50.0

    def get_batch(self, position: int, size: int):
        rows = super().get_batch(position, size)
        if self.since <= position < self.since + self.length:
            rows.targets = rows.targets + self.height
        return rows


def trained(task: ToyTask, folder, action: str, *, keep: int = 2, eval_every: int = 10, until=None, **numbers):
    state, events = toy_state(task, lr=0.002), []
    checkpointer = Checkpointer(folder, CPU, keep)
    plan = toy_plan(100, eval_steps=frozenset(range(eval_every, 101, eval_every)))
    seed_everything(0)
    policies = [watch_spikes(action, **numbers), stop_when_diverged()]
    stop = train(task, state, plan, CPU, policies=policies, emit=events.append, save=checkpointer.save,
                 restore_before=checkpointer.restore_before, is_stopping=lambda: bool(until and until(events)))  # fmt: skip
    return stop, state, events


def spikes(events: list[Event]) -> list[Spike]:
    return [event for event in events if isinstance(event, Spike)]


def test_a_rollback_goes_back_cuts_the_lr_and_leaves_out_the_batches_at_fault(tmp_path) -> None:
    stop, state, events = trained(Rough(), tmp_path, "rollback", lr_factor=0.5, max_rollbacks=1)
    [spike] = spikes(events)
    assert (spike.last_good_step, spike.step, spike.restored_step, spike.lr_factor) == (65, 68, 60, 0.5)
    steps = [event for event in events if isinstance(event, StepEnd)]
    after = steps[next(i for i, event in enumerate(steps) if event.step == 68) + 1 :]
    assert after[0].step == 61
    assert {event.lr for event in after} == {0.001}
    assert max(event.loss for event in after) < 50
    assert (stop.status, state.step, state.examples) == ("completed", 100, 16 * 108)
    assert read_counters(tmp_path / checkpoint_name(100))["lr_factor"] == 0.5


def test_rollbacks_end_after_as_many_as_were_asked_for(tmp_path) -> None:
    class Endless(Rough):
        length = 10**9

        def compute_loss(self, batch):
            loss = super().compute_loss(batch)
            return Loss(loss.sum * math.nan, loss.count) if batch.targets.max() > 10 else loss

    stop, _, events = trained(Endless(), tmp_path, "rollback", lr_factor=0.5, max_rollbacks=2)
    assert [(spike.restored_step, spike.is_continuing) for spike in spikes(events)] == [
        (60, True),
        (60, True),
        (None, False),
    ]
    assert stop.status == "diverged"


def test_a_run_stopped_right_after_a_rollback_goes_on_past_the_batches_at_fault(tmp_path) -> None:
    stop, state, _ = trained(Rough(), tmp_path, "rollback", until=spikes, lr_factor=0.5, max_rollbacks=1)
    assert (stop.status, state.step) == ("interrupted", 60)
    saved = read_counters(tmp_path / checkpoint_name(60))
    assert (saved["examples"], saved["lr_factor"], saved["rollbacks"]) == (16 * 68, 0.5, 1)


def test_the_checkpoint_before_a_spike_under_way_is_not_given_up(tmp_path) -> None:
    _, _, events = trained(Rough(), tmp_path, "rollback", keep=1, eval_every=1, lr_factor=0.5, max_rollbacks=1)
    assert [spike.restored_step for spike in spikes(events)] == [65]


def test_a_spike_at_a_step_to_evaluate_leaves_no_evaluation_out(tmp_path) -> None:
    _, _, events = trained(Rough(), tmp_path, "warn", eval_every=4)
    assert spikes(events)[0].step == 68
    assert [event.step for event in events if isinstance(event, EvalEnd)] == [0, *range(4, 101, 4)]


def test_checkpoints_between_the_spike_and_the_rollback_are_marked(tmp_path) -> None:
    task = Rough()
    task.since = 16 * 58  # seen at step 61, after the checkpoint of step 60
    _, _, events = trained(task, tmp_path, "rollback", lr_factor=0.5, max_rollbacks=1)
    assert spikes(events)[0].restored_step == 50
    assert (tmp_path / f"{checkpoint_name(60)}{AFTER_SPIKE}").is_dir()
    assert not read_counters(tmp_path / checkpoint_name(100))["last_spike_step"]


def test_a_warning_goes_on_and_marks_the_checkpoints_that_follow(tmp_path) -> None:
    stop, _, events = trained(Rough(), tmp_path, "warn", keep=20)
    assert spikes(events)[0].restored_step is None
    assert stop.status == "completed"
    marks = {step: read_counters(tmp_path / checkpoint_name(step))["last_spike_step"] for step in (60, 70, 100)}
    assert marks == {60: 0, 70: 65, 100: 65}


def test_a_stop_ends_the_run_as_diverged_with_the_numbers(tmp_path) -> None:
    stop, state, _ = trained(Rough(), tmp_path, "stop")
    assert (stop.status, state.step) == ("diverged", 68)
    assert "after step 65" in stop.reason
    assert not (tmp_path / checkpoint_name(68)).exists()


def test_without_a_checkpoint_before_the_spike_a_rollback_stops(tmp_path) -> None:
    task = Rough()
    checkpointer = Checkpointer(tmp_path, CPU, 2)
    policies = [watch_spikes("rollback", lr_factor=0.5, max_rollbacks=1)]
    stop = train(
        task, toy_state(task), toy_plan(100), CPU, policies=policies, restore_before=checkpointer.restore_before
    )
    assert stop.status == "diverged"
    assert "no checkpoint before it" in stop.reason


def test_a_loss_that_is_no_number_is_brought_back_and_the_run_completes(tmp_path) -> None:
    class Broken(Rough):
        def compute_loss(self, batch):
            loss = super().compute_loss(batch)
            return Loss(loss.sum * math.nan, loss.count) if batch.targets.max() > 10 else loss

    stop, state, events = trained(Broken(), tmp_path, "rollback", lr_factor=0.5, max_rollbacks=4)
    assert stop == Stop("completed", "")
    assert [spike.restored_step for spike in spikes(events)] == [60] * 3
    assert all(torch.isfinite(parameter).all() for parameter in state.model.parameters())
