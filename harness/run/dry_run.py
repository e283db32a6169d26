"""Build a run without starting it, to learn its settings in effect, its length and what a step takes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from omegaconf import DictConfig

from harness.core.distributed import ProcessGroup
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import ConfigError
from harness.core.events import EvalEnd, Event, StepEnd
from harness.run.build import RunParts, build_observers
from harness.run.runner import built_run
from harness.training.checkpoint import estimate_checkpoint_bytes
from harness.training.evaluation import evaluate
from harness.training.loop import Trainer
from harness.training.policies import Stop


@dataclass(frozen=True)
class DryRun:
    """Settings in effect and size of a run that was built but not started.

    `tokens` are those of all steps. `evals` does not count the evaluation before training. `dataset` are the digests of
    what it reads. `checkpoint_bytes` is estimated. Seconds are None unless measured. `notices` are about the schedule.
    """

    effective: EffectiveSettings
    total_steps: int
    evals: int
    tokens: int
    dataset: Mapping[str, str]
    checkpoint_bytes: int
    seconds_per_step: float | None
    seconds_per_eval: float | None
    notices: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Identify the dataset."""
        return self.dataset["digest"]


def dry_run(cfg: DictConfig, timed_steps: int = 0) -> DryRun:
    """Build the run of `cfg` and record nothing. Time so many steps, after an evaluation and one step to warm up.

    Raises:
        ConfigError: If the run cannot be built, or its first step cannot be taken.
        BaseRunFailed: If the run it starts from failed.
    """
    with built_run(cfg) as (_, parts, processes):
        build_observers(cfg)
        seconds_per_step, seconds_per_eval = (
            _measure_seconds(parts, processes, timed_steps) if timed_steps else (None, None)
        )
    plan, task = parts.plan, parts.task
    steps = plan.total_steps - plan.first_step
    return DryRun(
        effective=parts.effective,
        total_steps=steps,
        evals=sum(step > plan.first_step for step in plan.eval_steps),
        tokens=steps * round(plan.batch_size * task.tokens_per_example),
        dataset=task.dataset,
        checkpoint_bytes=estimate_checkpoint_bytes(parts.state),
        seconds_per_step=seconds_per_step,
        seconds_per_eval=seconds_per_eval,
        notices=parts.notices,
    )


def _measure_seconds(parts: RunParts, processes: ProcessGroup, timed_steps: int) -> tuple[float, float]:
    """Return the median seconds of a step and of an evaluation, measured by training."""
    events: list[Event] = []

    def stop_after_timed_steps(event: Event) -> Stop | None:
        earlier_steps = sum(isinstance(earlier, StepEnd) for earlier in events)
        return Stop("completed", "") if isinstance(event, StepEnd) and earlier_steps > timed_steps else None

    policies = (*parts.policies, stop_after_timed_steps)
    stop = Trainer(parts.task, parts.state, parts.plan, processes, policies=policies, emit=events.append).train()
    step_seconds = [event.seconds for event in events if isinstance(event, StepEnd)]
    if not step_seconds:
        raise ConfigError(f"the first step failed: {stop.reason}")
    eval_seconds = [event.seconds for event in events if isinstance(event, EvalEnd)]
    if not eval_seconds:  # a resumed run does not start with an evaluation
        started_at = time.perf_counter()
        evaluate(parts.task, processes, parts.plan.autocast)
        eval_seconds = [time.perf_counter() - started_at]
    return median(step_seconds[1:] or step_seconds), median(eval_seconds)
