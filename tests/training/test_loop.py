"""Training steps, evaluations, and what stops a run."""

import math
from typing import Any

import pytest
import torch

from harness.core.events import EvalEnd, Event, OutOfMemory, StepEnd
from harness.core.seeding import seed_everything
from harness.core.state import TrainState
from harness.core.task import Loss, Mean
from harness.training import policies
from harness.training.evaluation import evaluate
from harness.training.loop import Trainer
from harness.training.policies import Stop
from tests.toy_task import CPU, Rows, ToyTask, toy_plan, toy_state


def train_toy(
    task: ToyTask | None = None, state: TrainState | None = None, **arguments: Any
) -> tuple[list[Event], Stop]:
    """Train the toy task; return the events and why training stopped."""
    task = task or ToyTask()
    plan = arguments.pop("plan", toy_plan())
    events: list[Event] = []
    seed_everything(0)
    stop = Trainer(task, state or toy_state(task), plan, CPU, emit=events.append, **arguments).train()
    return events, stop


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepEnd)]


@pytest.mark.parametrize("micro_batch_size", [8, 4, 3])
def test_micro_batch_size_does_not_change_losses(micro_batch_size: int) -> None:
    whole, _ = train_toy()
    split, _ = train_toy(plan=toy_plan(micro_batch_size=micro_batch_size))
    assert losses(split) == pytest.approx(losses(whole), abs=1e-6)
    assert len(losses(whole)) == 20


def test_same_seed_is_bit_identical() -> None:
    first, _ = train_toy(ToyTask(dropout=0.3))
    second, _ = train_toy(ToyTask(dropout=0.3))
    assert losses(first) == losses(second)


def test_grad_norm_is_measured_before_clipping() -> None:
    free, _ = train_toy()
    clipped, _ = train_toy(plan=toy_plan(grad_clip=1e-3))
    first_free, first_clipped = (next(e for e in events if isinstance(e, StepEnd)) for events in (free, clipped))
    assert first_clipped.grad_norm == first_free.grad_norm > 1e-3
    assert first_clipped.is_clipped
    assert not first_free.is_clipped


def test_clipping_bounds_applied_gradient() -> None:
    task = ToyTask()
    state = toy_state(task)
    train_toy(task, state, plan=toy_plan(1, grad_clip=1e-3))
    norms = torch.stack([p.grad.norm() for p in task.model.parameters()])
    assert norms.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_evaluates_before_training_and_at_the_end() -> None:
    events, stop = train_toy(plan=toy_plan(eval_steps=frozenset({7, 20})))
    assert [event.step for event in events if isinstance(event, EvalEnd)] == [0, 7, 20]
    assert stop == Stop("completed", "")


def test_evaluation_is_independent_of_batch_size() -> None:
    values = [evaluate(ToyTask(eval_batch_size=size), CPU)["loss"].value for size in (1, 5, 16)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_evaluation_preserves_rng_and_mode() -> None:
    task = ToyTask(dropout=0.5)
    task.model.train()
    before = torch.get_rng_state()
    evaluate(task, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert task.model.training


def test_saves_best_loss_at_its_evaluation() -> None:
    task, saved = ToyTask(), []
    state = toy_state(task, lr=0.2)
    plan = toy_plan(eval_steps=frozenset(range(1, 21)))
    events, _ = train_toy(task, state, plan=plan, save=lambda state, is_best: saved.append((state.step, is_best)))
    evals = [event for event in events if isinstance(event, EvalEnd)]
    best = min(evals, key=lambda event: event.val_loss)
    assert (state.best_val_loss, state.best_step) == (best.val_loss, best.step)
    assert saved == [*((event.step, event.is_best) for event in evals), (20, False)]


def test_early_stopping_after_patience() -> None:
    task = ToyTask()
    plan = toy_plan(50, eval_steps=frozenset(range(1, 51)))
    events, stop = train_toy(task, toy_state(task, lr=1e-12), plan=plan, policies=[policies.stop_early(3)])
    last = events[-1]
    assert isinstance(last, EvalEnd)
    assert last.evals_since_best == 3
    assert stop.status == "completed"
    assert "3 evaluations" in stop.reason


def test_signal_stops_after_current_step() -> None:
    task = ToyTask()
    state = toy_state(task)
    events, stop = train_toy(task, state, is_stopping=lambda: state.step == 3)
    assert stop.status == "interrupted"
    assert (state.step, len(losses(events))) == (3, 3)


class NonFiniteTask(ToyTask):
    """A task whose loss is nan from the sixth forward pass on."""

    def compute_loss(self, batch: Rows) -> Loss:
        loss = super().compute_loss(batch)
        return Loss(loss.sum * math.nan, loss.count) if self.forwards > 5 else loss


def test_non_finite_loss_stops_and_keeps_last_good_weights() -> None:
    task = NonFiniteTask()
    state = toy_state(task)
    good: dict[str, torch.Tensor] = {}

    def keep_weights(event: Event) -> None:
        if isinstance(event, StepEnd) and event.step == 5:
            good.update({name: tensor.clone() for name, tensor in task.model.state_dict().items()})

    stop = Trainer(task, state, toy_plan(), CPU, policies=[policies.stop_when_diverged()], emit=keep_weights).train()
    assert stop.status == "diverged"
    assert "step 6" in stop.reason
    assert all(torch.equal(tensor, good[name]) for name, tensor in task.model.state_dict().items())


def test_non_finite_validation_loss_diverges() -> None:
    class InfiniteValidationTask(ToyTask):
        def score_batch(self, batch: Rows) -> dict[str, Mean]:
            return {"loss": Mean(math.inf, 1, "squared error")}

    _, stop = train_toy(InfiniteValidationTask(), policies=[policies.stop_when_diverged()])
    assert (stop.status, "validation loss inf" in stop.reason) == ("diverged", True)


def test_fp16_skips_overflowing_steps_until_scale_fits() -> None:
    task = ToyTask()
    state = toy_state(task, scale=2.0**40)
    plan = toy_plan(40, autocast=torch.float16)
    events, stop = train_toy(task, state, plan=plan, policies=[policies.stop_when_diverged(40)])
    skips = [event.skips for event in events if isinstance(event, StepEnd)]
    assert skips[0] == 1
    assert skips[-1] == 0
    assert stop.status == "completed"
    assert state.scaler.get_scale() < 2.0**40


def test_fp16_diverges_after_max_skips() -> None:
    task = ToyTask()
    _, stop = train_toy(
        task,
        toy_state(task, scale=2.0**60),
        plan=toy_plan(autocast=torch.float16),
        policies=[policies.stop_when_diverged(4)],
    )
    assert stop.status == "diverged"
    assert "5 steps skipped in a row" in stop.reason


class LimitedMemoryTask(ToyTask):
    """A task with memory for `limit` examples per forward pass."""

    limit = 4

    def compute_loss(self, batch: Rows) -> Loss:
        if len(batch) > self.limit:
            raise torch.OutOfMemoryError("batch too large")
        return super().compute_loss(batch)


def test_out_of_memory_shrinks_micro_batch_without_changing_losses() -> None:
    unlimited, _ = train_toy()
    limited, stop = train_toy(LimitedMemoryTask(), policies=[policies.shrink_when_out_of_memory])
    assert [e.micro_batch_size for e in limited if isinstance(e, OutOfMemory)] == [16, 8]
    assert losses(limited) == pytest.approx(losses(unlimited), abs=1e-6)
    assert stop.status == "completed"


def test_out_of_memory_with_one_example_fails() -> None:
    task = LimitedMemoryTask()
    task.limit = 0
    _, stop = train_toy(task, policies=[policies.shrink_when_out_of_memory])
    assert stop == Stop("failed", "out of memory with one example per forward pass: batch too large")


def test_retried_step_draws_the_same_random_numbers() -> None:
    class FailsOnceTask(ToyTask):
        """Runs out of memory once, in the third forward pass of a step, after dropout has drawn."""

        has_failed = False

        def compute_loss(self, batch: Rows) -> Loss:
            loss = super().compute_loss(batch)
            if not self.has_failed and self.forwards == 7:
                self.has_failed = True
                raise torch.OutOfMemoryError("once")
            return loss

    def keep_size(event: Event) -> policies.Decision:
        return policies.ShrinkMicroBatch(4) if isinstance(event, OutOfMemory) else None

    plan = toy_plan(micro_batch_size=4)
    undisturbed, _ = train_toy(ToyTask(dropout=0.3), plan=plan)
    retried, _ = train_toy(FailsOnceTask(dropout=0.3), plan=plan, policies=[keep_size])
    assert sum(isinstance(event, OutOfMemory) for event in retried) == 1
    assert losses(retried) == losses(undisturbed)


def test_evaluation_reports_grad_norms_of_last_step_by_layer() -> None:
    events, _ = train_toy(plan=toy_plan(20, grad_clip=0.01))
    first, last = (event for event in events if isinstance(event, EvalEnd))
    assert first.grad_norms == {}
    assert set(last.grad_norms) == {"0", "3"}
    norm = events[events.index(last) - 1].grad_norm
    assert math.hypot(*last.grad_norms.values()) == pytest.approx(norm, rel=1e-4)


def test_signal_during_the_last_step_comes_too_late() -> None:
    """The run would be recorded as interrupted, and could not be resumed: it has no step left."""
    task = ToyTask()
    state = toy_state(task)
    _, stop = train_toy(task, state, is_stopping=lambda: state.step == toy_plan().total_steps)
    assert stop == Stop("completed", "")
