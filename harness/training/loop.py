"""The training loop: it knows steps, evaluations and policies, and no model."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from harness.core.distributed import ProcessGroup
from harness.core.events import EvalEnd, Event, OutOfMemory, Spike, StepEnd
from harness.core.seeding import get_torch_rng_state, preserve_rng_state, set_torch_rng_state
from harness.core.state import TrainState
from harness.core.task import Mean, Metric, Task
from harness.training.grad_norms import layer_grad_norms
from harness.training.policies import Decision, HandleSpike, Policy, ShrinkMicroBatch, Stop, first_decision

Emit = Callable[[Event], None]
Save = Callable[[TrainState, bool], None]
"""Write the state down; the flag says whether it is the best so far."""
BEST = ("best_val_loss", "best_step", "evals_since_best")
RestoreBefore = Callable[[TrainState, int], int | None]
"""Bring the state to the last checkpoint of less than so many steps; its step, None where there is none."""


@dataclass(frozen=True)
class TrainingPlan:
    """The numbers a run follows. `batch_size` is examples a step over all processes; `micro_batch_size` examples a
    forward pass in each."""

    total_steps: int
    eval_steps: frozenset[int]
    batch_size: int
    micro_batch_size: int
    grad_clip: float = float("inf")
    autocast: torch.dtype | None = None
    first_step: int = 0
    """Where this run begins, if it goes on from another."""
    save_every: int | None = None
    """Steps between checkpoints; there is one at each evaluation anyhow."""


def train(
    task: Task,
    state: TrainState,
    plan: TrainingPlan,
    world: ProcessGroup,
    *,
    policies: Sequence[Policy] = (),
    emit: Emit = lambda event: None,
    save: Save = lambda state, is_best: None,
    restore_before: RestoreBefore = lambda state, before: None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Stop:
    """Train `state` to the end of `plan`, or to where a policy or a signal stops it; the answer says which."""
    micro_batch_size = plan.micro_batch_size
    _set_mode(state, is_training=True)
    decision = _evaluate_and_checkpoint(task, state, plan, world, policies, emit, save) if state.step == 0 else None
    while not isinstance(decision, Stop) and state.step < plan.total_steps:
        began_at = time.perf_counter()
        batch = task.get_batch(state.examples, plan.batch_size)
        event = train_step(task, state, batch, plan, world, micro_batch_size, began_at)
        emit(event)
        decision = first_decision(policies, event)
        if isinstance(decision, ShrinkMicroBatch):
            micro_batch_size = decision.micro_batch_size
            continue
        decision = _handle_spike(decision, state, plan, emit, save, restore_before)
        if decision is None and state.step == event.step:  # and not back at an earlier one
            if state.step in plan.eval_steps:
                decision = _evaluate_and_checkpoint(task, state, plan, world, policies, emit, save, event.grad_norm)
                decision = _handle_spike(decision, state, plan, emit, save, restore_before)
            elif plan.save_every and state.step % plan.save_every == 0:
                save(state, False)
        if decision is None and any(world.all_reduce([float(is_stopping())])):
            decision = Stop("interrupted", f"stopped by a signal after step {state.step}")
    stop = decision or Stop("completed", "")
    if stop.status != "diverged":  # what diverged is nothing to go on from
        save(state, False)
    _set_mode(state, is_training=False)
    return stop


def train_step(
    task: Task,
    state: TrainState,
    batch: Any,
    plan: TrainingPlan,
    world: ProcessGroup,
    micro_batch_size: int,
    began_at: float | None = None,
) -> StepEnd | OutOfMemory:
    """One optimizer update on `batch`, whose loss is the mean over all its scored elements, however it is split. It is
    timed from `began_at`, when the batch was begun to be made."""
    began_at, generators = began_at or time.perf_counter(), get_torch_rng_state()
    multiplier = state.schedule.lr_multiplier(state.progress(plan.total_steps))
    state.optimizer.scale_lr(multiplier * state.lr_factor)
    try:
        loss, shortage = _accumulate_gradients(task, state, batch, plan, world, micro_batch_size), ""
    except torch.OutOfMemoryError as error:
        loss, shortage = 0.0, str(error).partition("\n")[0]
    loss, processes_short = world.all_reduce([loss, float(bool(shortage))])
    if processes_short:
        state.optimizer.zero_grad()
        set_torch_rng_state(generators)
        return OutOfMemory(state.step, micro_batch_size, shortage or "on another process")
    grad_norm = _clip_and_step(state, plan, world)
    tokens = task.count_tokens(batch)
    state.step, state.examples, state.tokens = state.step + 1, state.examples + plan.batch_size, state.tokens + tokens
    state.skips = 0 if math.isfinite(loss) and math.isfinite(grad_norm) else state.skips + 1
    return StepEnd(
        step=state.step,
        tokens=state.tokens,
        loss=loss,
        lr=state.optimizer.parts[0].param_groups[0]["lr"],
        grad_norm=grad_norm,
        is_clipped=grad_norm > plan.grad_clip,
        skips=state.skips,
        seconds=time.perf_counter() - began_at,
        step_tokens=tokens,
        examples=state.examples,
    )


def evaluate(task: Task, world: ProcessGroup, autocast: torch.dtype | None = None) -> dict[str, Metric]:
    """The task's metrics over its whole validation set; no generator moves."""
    return task.compute_metrics(score_validation_set(task, world, autocast))


def score_validation_set(task: Task, world: ProcessGroup, autocast: torch.dtype | None = None) -> dict[str, Mean]:
    """What `evaluate` reports on, added up over the validation set, which is shared out without padding."""
    was_training = task.model.training
    task.model.eval()
    means: dict[str, Mean] = {}
    with torch.no_grad(), preserve_rng_state(), _autocast(world, autocast):
        for batch in world.shard(task.validation_batches()):
            means = _add_means(means, task.score_batch(batch))
    task.model.train(was_training)
    return functools.reduce(_add_means, world.all_gather(means))


def _evaluate_and_checkpoint(
    task: Task,
    state: TrainState,
    plan: TrainingPlan,
    world: ProcessGroup,
    policies: Sequence[Policy],
    emit: Emit,
    save: Save,
    grad_norm: float = 0.0,
) -> Decision:
    """Evaluate, tell everyone, save; the policies say whether to go on. `grad_norm` is that of the step before."""
    began_at = time.perf_counter()
    _set_mode(state, is_training=False)
    metrics = evaluate(task, world, plan.autocast)
    val_loss = metrics["loss"].value
    is_best = val_loss < state.best_val_loss
    if is_best:
        state.best_val_loss, state.best_step, state.evals_since_best = val_loss, state.step, 0
    else:
        state.evals_since_best += 1
    if state.step > 0 and hasattr(state.schedule, "observe"):
        state.schedule.observe(val_loss)
    event = EvalEnd(
        step=state.step,
        tokens=state.tokens,
        metrics=metrics,
        best_val_loss=state.best_val_loss,
        best_step=state.best_step,
        is_best=is_best,
        evals_since_best=state.evals_since_best,
        fraction_done=(state.step - plan.first_step) / (plan.total_steps - plan.first_step),
        seconds=time.perf_counter() - began_at,
        grad_norms=layer_grad_norms(state.model.named_parameters(), grad_norm),
    )
    emit(event)
    if math.isfinite(val_loss):
        save(state, is_best)
    _set_mode(state, is_training=True)
    return world.broadcast(first_decision(policies, event))


def _handle_spike(
    decision: Decision, state: TrainState, plan: TrainingPlan, emit: Emit, save: Save, go_back: RestoreBefore
) -> Stop | None:
    """`decision`, where it is to stop or nothing; a spike is told, and answered as the policy says.

    What is left of it after going back stays: the batches at fault are not taken again, the LR is cut, the best so far
    is the best so far. All of it is saved, so that a run stopped now goes on from there."""
    if not isinstance(decision, HandleSpike):
        return decision
    kept = {name: getattr(state, name) for name in ("examples", "rollbacks", "lr_factor", *BEST)}
    fed = (state.examples - (state.step - decision.last_good_step) * plan.batch_size, state.examples)
    step, is_allowed = state.step, decision.action == "rollback" and state.rollbacks < decision.max_rollbacks
    back_to = go_back(state, decision.last_good_step + 1) if is_allowed else None
    if back_to is None:
        state.last_spike_step = decision.last_good_step
    else:
        for name, value in kept.items():
            setattr(state, name, value)
        state.rollbacks, state.lr_factor = state.rollbacks + 1, state.lr_factor * decision.lr_factor
        save(state, False)
        _set_mode(state, is_training=True)
    goes_on = decision.action == "warn" or back_to is not None
    emit(
        Spike(
            step, decision.last_good_step, decision.loss, decision.baseline_loss, back_to, state.lr_factor, goes_on, fed
        )
    )
    if goes_on:
        return None
    told = f"the loss rose from about {decision.baseline_loss:.4g} to {decision.loss:.4g} after step {decision.last_good_step}"
    return Stop("diverged", f"{told}, with no checkpoint before it" if is_allowed else told)


def _accumulate_gradients(
    task: Task, state: TrainState, batch: Any, plan: TrainingPlan, world: ProcessGroup, micro_batch_size: int
) -> float:
    """Backward over this process's share of `batch`; its part of the mean loss of the whole batch."""
    state.optimizer.zero_grad()
    total_count = task.count_scored(batch)
    share = -(-plan.batch_size // world.size)
    loss_sum = torch.zeros((), device=world.device)
    for part in world.shard(task.split_batch(batch, share)):
        for micro_batch in task.split_batch(part, micro_batch_size):
            with _autocast(world, plan.autocast):
                loss = task.compute_loss(micro_batch).sum / total_count
            state.scaler.scale(loss).backward()
            loss_sum += loss.detach()
    return loss_sum.item()


def _clip_and_step(state: TrainState, plan: TrainingPlan, world: ProcessGroup) -> float:
    """Clip and apply the gradients unless one is not finite; the norm before clipping."""
    parameters = list(state.optimizer.parameters())
    world.all_reduce_gradients(parameters)
    for part in state.optimizer.parts:
        state.scaler.unscale_(part)
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, plan.grad_clip).item()
    if math.isfinite(grad_norm):
        for part in state.optimizer.parts:
            state.scaler.step(part)
    state.scaler.update()
    return grad_norm


def _set_mode(state: TrainState, *, is_training: bool) -> None:
    state.model.train(is_training)
    if is_training:
        state.optimizer.train()
    else:
        state.optimizer.eval()


def _autocast(world: ProcessGroup, dtype: torch.dtype | None) -> AbstractContextManager:
    return torch.autocast(world.device.type, dtype) if dtype else nullcontext()


def _add_means(left: dict[str, Mean], right: dict[str, Mean]) -> dict[str, Mean]:
    return left | {name: left[name] + mean if name in left else mean for name, mean in right.items()}
