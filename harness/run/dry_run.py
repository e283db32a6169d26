"""A run made ready and not begun: what is in force, how long it is, what a step of it takes."""

import time
from dataclasses import dataclass
from statistics import median

from omegaconf import DictConfig

from harness.core.distributed import ProcessGroup
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import ConfigError
from harness.core.events import EvalEnd, Event, StepEnd
from harness.run.build import RunParts, build_observers
from harness.run.runner import built_run
from harness.training.loop import Trainer, evaluate
from harness.training.policies import Stop


@dataclass(frozen=True)
class DryRun:
    """What a run would be: `effective` and the sizes are those in force, `tokens` its whole budget, `evals` those after
    the first, which is before training, `digest` that of the data; seconds are None unless measured."""

    effective: EffectiveSettings
    total_steps: int
    warmup_steps: int
    evals: int
    tokens: int
    digest: str
    seconds_per_step: float | None
    seconds_per_eval: float | None


def dry_run(cfg: DictConfig, timed_steps: int = 0) -> DryRun:
    """What a run of `cfg` would build, recorded nowhere; ConfigError for what it would refuse.

    BaseEnded as for `assembled`. With `steps` the model takes so many, after one evaluation and one step to warm up,
    and their seconds are told."""
    with built_run(cfg) as (_, parts, world):
        build_observers(cfg)
        of_step, of_eval = _measure_seconds(parts, world, timed_steps) if timed_steps else (None, None)
    plan, task = parts.plan, parts.task
    steps_to_take = plan.total_steps - plan.first_step
    return DryRun(
        effective=parts.effective,
        total_steps=steps_to_take,
        warmup_steps=parts.warmup_steps,
        evals=sum(step > plan.first_step for step in plan.eval_steps),
        tokens=steps_to_take * round(plan.batch_size * task.tokens_per_example),
        digest=task.dataset["digest"],
        seconds_per_step=of_step,
        seconds_per_eval=of_eval,
    )


def _measure_seconds(parts: RunParts, world: ProcessGroup, steps: int) -> tuple[float, float]:
    """The medians of a step's and of an evaluation's seconds, by training as a run does."""
    told: list[Event] = []

    def enough(event: Event) -> Stop | None:
        taken = sum(isinstance(earlier, StepEnd) for earlier in told)
        return Stop("completed", "") if isinstance(event, StepEnd) and taken > steps else None

    policies = (*parts.policies, enough)
    stop = Trainer(parts.task, parts.state, parts.plan, world, policies=policies, emit=told.append).train()
    step_seconds = [event.seconds for event in told if isinstance(event, StepEnd)]
    if not step_seconds:
        raise ConfigError(f"the first step cannot be taken: {stop.reason}")
    of_evals = [event.seconds for event in told if isinstance(event, EvalEnd)]
    if not of_evals:  # a run that goes on does not begin with one
        began_at = time.perf_counter()
        evaluate(parts.task, world, parts.plan.autocast)
        of_evals = [time.perf_counter() - began_at]
    return median(step_seconds[1:] or step_seconds), median(of_evals)
