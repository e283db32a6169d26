"""The training loop: steps, evaluations, checkpoints and policies. Does not depend on the kind of model."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch

from harness.core.distributed import ProcessGroup
from harness.core.events import EvalEnd, Event, OutOfMemory, Spike, StepEnd
from harness.core.seeding import get_torch_rng_state, set_torch_rng_state
from harness.core.sharding import to_whole
from harness.core.state import ObservingSchedule, TrainState
from harness.core.task import ExampleSums, Metric, Task
from harness.training.evaluation import preserve_weights, score_validation_set, use_autocast
from harness.training.grad_norms import layer_grad_norms
from harness.training.parallel import DataParallel, LossEngine, Parallel
from harness.training.policies import Decision, HandleSpike, Policy, ShrinkMicroBatch, Stop, first_decision

# A rollback restores the weights but keeps these. `examples`: the batches at fault are not trained on again.
# `rollbacks` and `lr_factor`: they count up over all rollbacks, to limit them. The best loss and what follows from it:
# the checkpoint `best` is kept on disk, and only a better loss may replace it.
KEPT_AT_ROLLBACK = ("examples", "rollbacks", "lr_factor", "best_val_loss", "best_step", "evals_since_best")


@dataclass(frozen=True)
class TrainingPlan:
    """Length and batch sizes of a run.

    `batch_size` is the number of examples per step over all processes, `micro_batch_size` the number of examples per
    forward pass in each process.
    """

    total_steps: int
    eval_steps: frozenset[int]
    batch_size: int
    micro_batch_size: int
    grad_clip: float = float("inf")
    autocast: torch.dtype | None = None
    first_step: int = 0  # above 0 if the run resumes another one
    save_every: int | None = None  # steps between checkpoints, beside the one at each evaluation
    record_examples: bool = False  # whether evaluations emit the losses of single examples
    probe_steps: frozenset[int] = frozenset()  # of evaluations that change nothing; none of them in `eval_steps`

    def plans_checkpoint(self, step: int) -> bool:
        """Return whether a run saves a checkpoint of `step` whatever happens: not at a probe or a stop."""
        is_regular = bool(self.save_every) and step % (self.save_every or 1) == 0
        return is_regular or step == self.first_step or step in self.eval_steps

    def with_probes(self, shares: Iterable[float]) -> "TrainingPlan":
        """Return the plan with probes after these shares of its steps, rounded up.

        Raises:
            ValueError: If a share is not above 0 and at most 1.
        """
        length = self.total_steps - self.first_step
        for share in shares:
            if not 0 < share <= 1:
                raise ValueError(f"probes: {share} must be above 0 and at most 1")
        # exact: 0.07 * 100 is above 7 as a float
        steps = {self.first_step + math.ceil(Fraction(str(share)) * length) for share in shares}
        return replace(self, probe_steps=frozenset(steps) - self.eval_steps)


@dataclass
class Trainer:
    """Train `state` on `task` according to `plan`.

    `emit` receives every event. `save(state, is_best)` writes a checkpoint. `restore_before(state, step)` restores the
    last checkpoint before a step and returns its step, or None if there is none. A run that `is_continued` goes on from
    the checkpoint that `state` holds; `undecided` is the evaluation at its step if the policies have not seen it yet.
    """

    task: Task
    state: TrainState
    plan: TrainingPlan
    processes: ProcessGroup
    _: KW_ONLY
    parallel: Parallel = field(default_factory=DataParallel)
    policies: Sequence[Policy] = ()
    emit: Callable[[Event], None] = lambda event: None
    save: Callable[[TrainState, bool], None] = lambda state, is_best: None
    restore_before: Callable[[TrainState, int], int | None] = lambda state, step: None
    is_stopping: Callable[[], bool] = lambda: False
    is_continued: bool = False
    undecided: EvalEnd | None = None
    micro_batch_size: int = field(init=False)
    engine: LossEngine = field(init=False)

    def __post_init__(self) -> None:
        self.micro_batch_size = self.plan.micro_batch_size
        self.engine = self.parallel.build_engine(self.task, self.processes)

    def train(self) -> Stop:
        """Train to the end of the plan, or until a policy or a signal stops the run, and return the reason."""
        state, plan = self.state, self.plan
        state.train()
        stop = self._find_signal()
        if stop is None and self.undecided is not None:
            stop = self._decide(self.undecided)
        elif stop is None and state.step == 0 and not self.is_continued:
            stop = self._evaluate_and_checkpoint()
        while stop is None and state.step < plan.total_steps:
            started_at = time.perf_counter()
            batch = self.task.get_batch(state.examples, plan.batch_size)
            event = self.train_step(batch, started_at)
            self.emit(event)
            stop = self._carry_out(first_decision(self.policies, event))
            if isinstance(event, StepEnd) and stop is None and state.step == event.step:  # not rolled back
                if state.step in plan.eval_steps:
                    stop = self._evaluate_and_checkpoint(event.grad_norm)
                elif state.step in plan.probe_steps:
                    stop = self._probe_and_checkpoint(event.grad_norm)
                elif plan.save_every and state.step % plan.save_every == 0:
                    self.save(state, False)
            if state.step < plan.total_steps:  # the run is complete; a signal no longer interrupts it
                stop = stop or self._find_signal()
        stop = stop or Stop("completed", "")
        if stop.status != "diverged":  # nobody resumes from a diverged state
            self.save(state, False)
        state.eval()
        return stop

    def _find_signal(self) -> Stop | None:
        """Return that the run is interrupted if any process has received a signal."""
        if not any(self.processes.all_reduce([float(self.is_stopping())])):
            return None
        return Stop("interrupted", f"stopped by a signal after step {self.state.step}")

    def train_step(self, batch: Any, started_at: float | None = None) -> StepEnd | OutOfMemory:
        """Make one optimizer update on `batch`; its loss is the mean over all scored elements, however it is split.

        `started_at` is when loading the batch began. If any process runs out of memory, no process updates and the
        generators are reset, so that the step can be retried with a smaller micro-batch.
        """
        state, plan = self.state, self.plan
        started_at, rng_state = started_at or time.perf_counter(), get_torch_rng_state()
        multiplier = state.schedule.lr_multiplier(state.progress(plan.total_steps))
        state.optimizer.scale_lr(multiplier * state.lr_factor)
        try:
            loss, oom_message = self._accumulate_gradients(batch), ""
        except torch.OutOfMemoryError as error:
            loss, oom_message = 0.0, str(error).partition("\n")[0]
        if oom_message:  # only here is the memory free that the traceback of the error held
            state.optimizer.zero_grad()
            self.engine.complete_failed_step(oom_message)
        loss, n_out_of_memory = self.processes.all_reduce([loss, float(bool(oom_message))])
        if n_out_of_memory:
            state.optimizer.zero_grad()
            set_torch_rng_state(rng_state)
            return OutOfMemory(state.step, self.micro_batch_size, oom_message or "on another process")
        grad_norm = self._clip_and_step()
        tokens = self.task.count_tokens(batch)
        state.step += 1
        state.examples += plan.batch_size
        state.tokens += tokens
        state.skips = 0 if math.isfinite(loss) and math.isfinite(grad_norm) else state.skips + 1
        return StepEnd(
            step=state.step,
            tokens=state.tokens,
            loss=loss,
            lr=state.optimizer.parts[0].param_groups[0]["lr"],
            grad_norm=grad_norm,
            is_clipped=grad_norm > plan.grad_clip,
            skips=state.skips,
            seconds=time.perf_counter() - started_at,
            step_tokens=tokens,
            examples=state.examples,
        )

    def _accumulate_gradients(self, batch: Any) -> float:
        """Add up the gradients of all processes; return this process's part of the mean loss of the whole batch."""
        self.state.optimizer.zero_grad()
        total_count = self.task.count_scored(batch)
        micro_batches = self._split_step(batch)
        loss_sum: torch.Tensor | float = 0.0
        for number, (micro_batch, weight) in enumerate(micro_batches, start=1):
            with self.engine.accumulate(is_last=number == len(micro_batches)):
                with use_autocast(self.processes, self.plan.autocast):
                    loss = self.engine.compute_loss(micro_batch) * weight / total_count
                self.state.scaler.scale(loss).backward()
                loss_sum += loss.detach()
        return float(loss_sum)

    def _split_step(self, batch: Any) -> list[tuple[Any, float]]:
        """Return the micro-batches of this process, each with the weight 1.

        All processes have the same number of them: one that would have fewer also gets some of the first process, with
        the weight 0.
        """
        per_process = -(-self.plan.batch_size // self.processes.size)
        shares = [self.task.split_batch(part, self.micro_batch_size)
                  for part in self.task.split_batch(batch, per_process)]  # fmt: skip
        own = next(self.processes.shard(shares), [])
        n_missing = max(map(len, shares)) - len(own)
        return [*((micro_batch, 1.0) for micro_batch in own), *[(shares[0][0], 0.0)] * n_missing]

    def _clip_and_step(self) -> float:
        """Clip and apply the gradients unless one is not finite; return their norm before clipping."""
        optimizer, scaler = self.state.optimizer, self.state.scaler
        for part in optimizer.parts:
            scaler.unscale_(part)
        grad_norm = to_whole(torch.nn.utils.clip_grad_norm_(optimizer.parameters(), self.plan.grad_clip)).item()
        if math.isfinite(grad_norm):
            for part in optimizer.parts:
                scaler.step(part)
        scaler.update()
        return grad_norm

    def _evaluate_and_checkpoint(self, grad_norm: float = 0.0) -> Stop | None:
        """Evaluate, emit the result, save, and let the policies decide. `grad_norm` is that of the last step."""
        state, started_at = self.state, time.perf_counter()
        state.eval()
        metrics, examples = self._evaluate()
        val_loss = metrics["loss"].value
        is_best = val_loss < state.best_val_loss
        if is_best:
            state.best_val_loss, state.best_step, state.evals_since_best = val_loss, state.step, 0
        else:
            state.evals_since_best += 1
        if state.step > 0 and isinstance(state.schedule, ObservingSchedule):
            state.schedule.observe(val_loss)
        event = self._describe_evaluation(metrics, examples, grad_norm, started_at, is_best=is_best)
        self.emit(event)
        if math.isfinite(val_loss):
            self.save(state, is_best)
        state.train()
        return self._decide(event)

    def _probe_and_checkpoint(self, grad_norm: float) -> Stop | None:
        """Do the same at a probe, which leaves the state as it was."""
        state, started_at = self.state, time.perf_counter()
        with preserve_weights(state):
            state.eval()
            metrics, examples = self._evaluate()
            state.train()
        event = self._describe_evaluation(metrics, examples, grad_norm, started_at, is_probe=True)
        self.emit(event)
        if math.isfinite(event.val_loss):
            self.save(state, False)
        return self._decide(event)

    def _evaluate(self) -> tuple[dict[str, Metric], tuple[ExampleSums, ...]]:
        """Return the metrics of the validation set, and the losses of its examples if they are recorded."""
        plan = self.plan
        means = score_validation_set(self.task, self.processes, plan.autocast, keep_examples=plan.record_examples)
        return self.task.compute_metrics(means), means["loss"].examples if "loss" in means else ()

    def _describe_evaluation(
        self,
        metrics: dict[str, Metric],
        examples: tuple[ExampleSums, ...],
        grad_norm: float,
        started_at: float,
        *,
        is_best: bool = False,
        is_probe: bool = False,
    ) -> EvalEnd:
        state, plan = self.state, self.plan
        return EvalEnd(
            step=state.step,
            tokens=state.tokens,
            metrics=metrics,
            best_val_loss=state.best_val_loss,
            best_step=state.best_step,
            is_best=is_best,
            evals_since_best=state.evals_since_best,
            fraction_done=(state.step - plan.first_step) / (plan.total_steps - plan.first_step),
            seconds=time.perf_counter() - started_at,
            grad_norms=layer_grad_norms(state.model.named_parameters(), grad_norm),
            examples=examples,
            is_probe=is_probe,
        )

    def _decide(self, event: EvalEnd) -> Stop | None:
        """Let the policies decide; rank 0 does for all: a pruner, for one, is asked there alone."""
        return self._carry_out(self.processes.broadcast(first_decision(self.policies, event)))

    def _carry_out(self, decision: Decision) -> Stop | None:
        match decision:
            case ShrinkMicroBatch():
                self.micro_batch_size = decision.micro_batch_size
                return None
            case HandleSpike():
                return self._handle_spike(decision)
        return decision

    def _handle_spike(self, spike: HandleSpike) -> Stop | None:
        """Report a spike, then continue, roll back or stop as the policy says.

        After a rollback the state is saved at once, with the reduced LR and the new data position, so that a run
        stopped now resumes from there. It is reported before: the record of a checkpoint has what led to it.
        """
        state, step = self.state, self.state.step
        kept = {name: getattr(state, name) for name in KEPT_AT_ROLLBACK}
        first_example = state.examples - (step - spike.last_good_step) * self.plan.batch_size
        may_roll_back = spike.action == "rollback" and state.rollbacks < spike.max_rollbacks
        restored_step = self.restore_before(state, spike.last_good_step + 1) if may_roll_back else None
        if restored_step is None:
            state.last_spike_step = spike.last_good_step
        else:
            for name, value in kept.items():
                setattr(state, name, value)
            state.rollbacks += 1
            state.lr_factor *= spike.lr_factor
            state.recent_losses.clear()
        is_continuing = spike.action == "warn" or restored_step is not None
        self.emit(
            Spike(
                step=step,
                last_good_step=spike.last_good_step,
                loss=spike.loss,
                baseline_loss=spike.baseline_loss,
                restored_step=restored_step,
                lr_factor=state.lr_factor,
                is_continuing=is_continuing,
                example_range=(first_example, state.examples),
            )
        )
        if restored_step is not None:
            self.save(state, False)
            state.train()
        if is_continuing:
            return None
        change = f"rose from about {spike.baseline_loss:.4g} to" if math.isfinite(spike.loss) else "became"
        reason = f"the loss {change} {spike.loss:.4g} after step {spike.last_good_step}"
        return Stop("diverged", f"{reason}; there is no earlier checkpoint to restore" if may_roll_back else reason)
