"""Probes are evaluations that change nothing."""

import math
from typing import Any

import pytest
import torch
from pytorch_optimizer import ScheduleFreeAdamW

from harness.core.events import EvalEnd, Event, StepEnd
from harness.core.seeding import seed_everything
from harness.core.state import TrainState
from harness.core.task import Mean
from harness.training import policies
from harness.training.loop import Trainer
from harness.training.optimizers import CombinedOptimizer, group_parameters
from harness.training.policies import Decision, Policy, Stop
from harness.training.schedules import Plateau
from tests.toy_task import CPU, Rows, ToyTask, toy_plan, toy_state

EVAL_STEPS = frozenset(range(5, 41, 5))


def make_plateau_state(task: ToyTask) -> TrainState:
    """Return a state whose LR is cut after each evaluation without a better loss."""
    state = toy_state(task, lr=0.2)
    state.schedule = Plateau(warmup_ratio=0, patience=0, threshold=0.1)
    return state


def make_averaged_state(task: ToyTask) -> TrainState:
    """Return a state whose optimizer evaluates other weights than it trains."""
    state = toy_state(task)
    state.optimizer = CombinedOptimizer(ScheduleFreeAdamW(group_parameters(task.model, "matrices"), lr=0.02))
    return state


def train_toy(state: TrainState, task: ToyTask, shares: tuple[float, ...], **hooks: Any) -> tuple[list[Event], Stop]:
    events: list[Event] = []
    plan = toy_plan(40, eval_steps=EVAL_STEPS).with_probes(shares)
    seed_everything(0)
    return events, Trainer(task, state, plan, CPU, emit=events.append, **hooks).train()


@pytest.mark.parametrize("make_state", [make_plateau_state, make_averaged_state])
def test_run_with_probes_is_bit_identical(make_state) -> None:
    ended, planned, losses = [], [], []
    for shares in ((), (0.01, 0.3, 0.5, 0.8, 0.99)):
        task = ToyTask(dropout=0.3)
        state = make_state(task)
        events, stop = train_toy(state, task, shares, policies=[policies.stop_early(8)])
        counters = {name: getattr(state, name) for name in state.COUNTERS}
        schedule = state.schedule.state_dict() if isinstance(state.schedule, Plateau) else {}
        ended.append((stop, counters, schedule, {name: t.tolist() for name, t in task.model.state_dict().items()}))
        evals = [event for event in events if isinstance(event, EvalEnd) and not event.is_probe]
        planned.append([(e.step, e.val_loss, e.best_val_loss, e.best_step, e.evals_since_best) for e in evals])
        losses.append([event.loss for event in events if isinstance(event, StepEnd)])
    assert ended[0] == ended[1]
    assert planned[0] == planned[1]
    assert losses[0] == losses[1]
    assert [step for step, *_ in planned[0]] == [0, *sorted(EVAL_STEPS)]
    if make_state is make_plateau_state:
        assert ended[0][2]["ratio"] < 1  # more observations would have cut it further


@pytest.mark.parametrize(
    ("total_steps", "shares", "steps"),
    [
        (100, (0.04, 0.12, 0.36), {4, 12, 36}),
        (100, (0.07, 0.0001, 1.0), {7, 1}),
        (7, (0.04, 0.12, 0.36, 0.99), {1, 3}),
        (10, (0.5,), set()),
    ],
)
def test_probes_follow_shares_of_the_run(total_steps, shares, steps) -> None:
    plan = toy_plan(total_steps, eval_steps=frozenset({5, total_steps}))
    assert plan.with_probes(shares).probe_steps == steps
    later = toy_plan(total_steps + 20, eval_steps=frozenset({25, total_steps + 20}), first_step=20)
    assert later.with_probes(shares).probe_steps == {step + 20 for step in steps}


@pytest.mark.parametrize("share", [0, -0.1, 1.01, math.nan])
def test_share_outside_the_run_is_refused(share) -> None:
    with pytest.raises(ValueError, match=r"probes: .* must be above 0 and at most 1"):
        toy_plan().with_probes([share])


def test_checkpoint_is_saved_before_policies_see_a_probe() -> None:
    task, seen = ToyTask(), []
    state = make_averaged_state(task)

    def pause(event: Event) -> Decision:
        if isinstance(event, EvalEnd):
            seen.append((event.step, event.is_probe))
        return Stop("paused", "enough") if isinstance(event, EvalEnd) and event.is_probe else None

    def save(state: TrainState, is_best: bool) -> None:
        seen.append((state.step, is_best))
        modes.append(state.optimizer.parts[0].param_groups[0]["train_mode"])

    modes: list[bool] = []
    _, stop = train_toy(state, task, (0.05,), policies=[pause], save=save)
    assert (stop, state.step) == (Stop("paused", "enough"), 2)
    assert seen == [(0, True), (0, False), (2, False), (2, True), (2, False)]
    assert modes[1:] == [True, True]  # the weights that are trained


@pytest.mark.parametrize("policy", [policies.stop_when_diverged(), policies.stop_early(1)])
def test_policies_of_the_run_ignore_probes(policy: Policy) -> None:
    class InfiniteValidationTask(ToyTask):
        def score_batch(self, batch: Rows) -> dict[str, Mean]:
            return {"loss": Mean(torch.inf, 1, "squared error")}

    task, stops = InfiniteValidationTask(), []
    events, _ = train_toy(toy_state(task), task, (0.3,), policies=[])
    for event in events:
        if isinstance(event, EvalEnd):
            stops.append((event.is_probe, policy(event) is None))
    assert (True, True) in stops
    assert (True, False) not in stops
    assert (False, False) in stops
