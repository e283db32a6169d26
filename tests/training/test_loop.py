"""The loop: what a step is, what stops it, and that how a batch is split changes nothing."""

import math

import pytest
import torch

from harness.core.events import EvalEnd, Event, OutOfMemory, StepEnd
from harness.core.seeding import seed_everything
from harness.core.task import Loss, Mean
from harness.training import policies
from harness.training.loop import evaluate, train
from harness.training.policies import Stop
from tests.toy_task import CPU, ToyTask, toy_plan, toy_state


def train_toy(task: ToyTask | None = None, state=None, **arguments):
    """Events and the stop of one run of the toy task."""
    task = task or ToyTask()
    plan = arguments.pop("plan", toy_plan())
    events: list[Event] = []
    seed_everything(0)
    stop = train(task, state or toy_state(task), plan, CPU, emit=events.append, **arguments)
    return events, stop


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepEnd)]


@pytest.mark.parametrize("micro_batch_size", [8, 4, 3])
def test_splitting_a_ragged_batch_changes_no_loss(micro_batch_size: int) -> None:
    whole, _ = train_toy()
    split, _ = train_toy(plan=toy_plan(micro_batch_size=micro_batch_size))
    assert losses(split) == pytest.approx(losses(whole), abs=1e-6)
    assert len(losses(whole)) == 20


def test_the_same_seed_gives_the_same_bits() -> None:
    first, _ = train_toy(ToyTask(dropout=0.3))
    second, _ = train_toy(ToyTask(dropout=0.3))
    assert losses(first) == losses(second)


def test_the_gradient_norm_is_the_one_before_clipping() -> None:
    free, _ = train_toy()
    clipped, _ = train_toy(plan=toy_plan(grad_clip=1e-3))
    first_free, first_clipped = (next(e for e in events if isinstance(e, StepEnd)) for events in (free, clipped))
    assert first_clipped.grad_norm == first_free.grad_norm > 1e-3
    assert first_clipped.is_clipped
    assert not first_free.is_clipped


def test_clipping_bounds_the_gradient_that_is_applied() -> None:
    task = ToyTask()
    state = toy_state(task)
    train_toy(task, state, plan=toy_plan(1, grad_clip=1e-3))
    norms = torch.stack([p.grad.norm() for p in task.model.parameters()])
    assert norms.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_there_is_an_evaluation_before_training_and_one_at_the_end() -> None:
    events, stop = train_toy(plan=toy_plan(eval_steps=frozenset({7, 20})))
    assert [event.step for event in events if isinstance(event, EvalEnd)] == [0, 7, 20]
    assert stop == Stop("completed", "")


def test_evaluation_scores_every_element_whatever_its_batch_size_and_moves_no_generator() -> None:
    before = torch.get_rng_state()
    values = [evaluate(ToyTask(dropout=0.5, eval_batch_size=size), CPU)["loss"].value for size in (1, 5, 16)]
    seed_everything(0)
    before = torch.get_rng_state()
    task = ToyTask(dropout=0.5)
    task.model.train()
    torch.set_rng_state(before)
    evaluate(task, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert task.model.training
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_the_best_is_the_smallest_seen_and_is_saved_when_it_is_seen() -> None:
    task, saved = ToyTask(), []
    state = toy_state(task, lr=0.2)
    plan = toy_plan(eval_steps=frozenset(range(1, 21)))
    events, _ = train_toy(task, state, plan=plan, save=lambda state, is_best: saved.append((state.step, is_best)))
    evals = [event for event in events if isinstance(event, EvalEnd)]
    best = min(evals, key=lambda event: event.val_loss)
    assert (state.best_val_loss, state.best_step) == (best.val_loss, best.step)
    assert saved == [*((event.step, event.is_best) for event in evals), (20, False)]


def test_early_stopping_ends_the_run_as_completed_after_its_patience() -> None:
    task = ToyTask()
    plan = toy_plan(50, eval_steps=frozenset(range(1, 51)))
    events, stop = train_toy(task, toy_state(task, lr=1e-12), plan=plan, policies=[policies.stop_early(3)])
    last = events[-1]
    assert isinstance(last, EvalEnd)
    assert last.evals_since_best == 3
    assert stop.status == "completed"
    assert "3 evaluations" in stop.reason


def test_a_signal_ends_the_run_after_the_step_under_way() -> None:
    steps: list[int] = []
    task = ToyTask()
    state = toy_state(task)
    events, stop = train_toy(task, state, is_stopping=lambda: steps.append(1) or len(steps) == 3)
    assert stop.status == "interrupted"
    assert (state.step, len(losses(events))) == (3, 3)


class Spoilt(ToyTask):
    """A task whose loss is not finite from a chosen forward pass on."""

    def compute_loss(self, batch):
        loss = super().compute_loss(batch)
        return Loss(loss.sum * math.nan, loss.count) if self.forwards > 5 else loss


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_good_weights() -> None:
    task = Spoilt()
    state = toy_state(task)
    good: dict = {}

    def remember(event: Event) -> None:
        if isinstance(event, StepEnd) and event.step == 5:
            good.update({name: tensor.clone() for name, tensor in task.model.state_dict().items()})

    stop = train(task, state, toy_plan(), CPU, policies=[policies.stop_when_diverged()], emit=remember)
    assert stop.status == "diverged"
    assert "step 6" in stop.reason
    assert all(torch.equal(tensor, good[name]) for name, tensor in task.model.state_dict().items())


def test_a_validation_loss_that_is_not_finite_is_divergence() -> None:
    class Blind(ToyTask):
        def score_batch(self, batch):
            return {"loss": Mean(math.inf, 1, "squared error")}

    _, stop = train_toy(Blind(), policies=[policies.stop_when_diverged()])
    assert (stop.status, "validation loss inf" in stop.reason) == ("diverged", True)


def test_fp16_skips_overflowing_steps_until_the_scale_fits() -> None:
    task = ToyTask()
    state = toy_state(task, scale=2.0**40)
    plan = toy_plan(40, autocast=torch.float16)
    events, stop = train_toy(task, state, plan=plan, policies=[policies.stop_when_diverged(40)])
    skips = [event.skips for event in events if isinstance(event, StepEnd)]
    assert skips[0] == 1
    assert skips[-1] == 0
    assert stop.status == "completed"
    assert state.scaler.get_scale() < 2.0**40


def test_fp16_that_only_skips_has_diverged() -> None:
    task = ToyTask()
    _, stop = train_toy(
        task,
        toy_state(task, scale=2.0**60),
        plan=toy_plan(autocast=torch.float16),
        policies=[policies.stop_when_diverged(4)],
    )
    assert stop.status == "diverged"
    assert "5 steps skipped in a row" in stop.reason


class Cramped(ToyTask):
    """A task that has memory for four examples a forward pass."""

    def compute_loss(self, batch):
        if len(batch) > 4:
            raise torch.OutOfMemoryError("only four fit")
        return super().compute_loss(batch)


def test_out_of_memory_splits_the_same_batch_anew_and_changes_no_loss() -> None:
    roomy, _ = train_toy()
    cramped, stop = train_toy(Cramped(), policies=[policies.shrink_when_out_of_memory])
    assert [e.micro_batch_size for e in cramped if isinstance(e, OutOfMemory)] == [16, 8]
    assert losses(cramped) == pytest.approx(losses(roomy), abs=1e-6)
    assert stop.status == "completed"


def test_a_step_that_is_taken_again_for_lack_of_memory_draws_what_it_would_have_drawn() -> None:
    class Cramped(ToyTask):
        """Runs out of memory once, in the third forward pass of a step, when generators have moved."""

        is_short = True

        def compute_loss(self, batch):
            if self.is_short and self.forwards == 6:
                self.is_short = False
                super().compute_loss(batch)
                raise torch.OutOfMemoryError("not now")
            return super().compute_loss(batch)

    def same_size(event: Event) -> policies.Decision:
        return policies.ShrinkMicroBatch(4) if isinstance(event, OutOfMemory) else None

    plan = toy_plan(micro_batch_size=4)
    undisturbed, _ = train_toy(ToyTask(dropout=0.3), plan=plan)
    cramped, _ = train_toy(Cramped(dropout=0.3), plan=plan, policies=[same_size])
    assert sum(isinstance(event, OutOfMemory) for event in cramped) == 1
    assert losses(cramped) == losses(undisturbed)


def test_an_evaluation_tells_the_gradients_norm_by_layer_of_the_step_before() -> None:
    events, _ = train_toy(plan=toy_plan(20, grad_clip=0.01))
    first, last = (event for event in events if isinstance(event, EvalEnd))
    assert first.grad_norms == {}
    assert set(last.grad_norms) == {"0", "3"}
    norm = events[events.index(last) - 1].grad_norm
    assert math.hypot(*last.grad_norms.values()) == pytest.approx(norm, rel=1e-4)


def test_out_of_memory_with_a_single_example_fails_with_the_reason() -> None:
    class Tiny(ToyTask):
        def compute_loss(self, batch):
            raise torch.OutOfMemoryError("nothing fits")

    _, stop = train_toy(Tiny(), policies=[policies.shrink_when_out_of_memory])
    assert stop == Stop("failed", "out of memory with one example a forward pass: nothing fits")


def test_a_run_in_two_parts_is_bitwise_the_straight_run() -> None:
    straight_task = ToyTask(dropout=0.2)
    straight = toy_state(straight_task)
    train_toy(straight_task, straight, plan=toy_plan(20))
    first_task = ToyTask(dropout=0.2)
    first = toy_state(first_task)
    train_toy(first_task, first, plan=toy_plan(20), is_stopping=lambda: first.step == 10)
    saved = first.state_dict()
    second_task = ToyTask(dropout=0.2)
    second = toy_state(second_task)
    second.load_state_dict(saved)
    train(second_task, second, toy_plan(20), CPU)
    pairs = zip(straight_task.model.parameters(), second_task.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert (second.step, second.examples, second.tokens) == (straight.step, straight.examples, straight.tokens)


def test_means_add_up_with_their_standard_error() -> None:
    total = Mean(3.0, 2, "nats", 5.0) + Mean(4.0, 1, "nats", 16.0)
    assert (total.value, total.count) == (7 / 3, 3)
    assert total.standard_error == pytest.approx(torch.tensor([1.0, 2.0, 4.0]).std().item() / math.sqrt(3))
    assert (total + Mean(1.0, 1, "nats")).standard_error is None
    with pytest.raises(ValueError, match="cannot add a mean in bits to one in nats"):
        total + Mean(1.0, 1, "bits")
