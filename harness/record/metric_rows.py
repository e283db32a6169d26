"""Folds a run's facts into rows of metrics: the one home of their names."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.core.events import EvalEnd, Event, Notice, OutOfMemory, RunEnd, RunStart, Spike, StepEnd


@dataclass(frozen=True)
class MetricRow:
    """What is recorded at one step; units only of what a task measures."""

    step: int
    tokens: int
    metrics: Mapping[str, float]
    units: Mapping[str, str] = field(default_factory=dict)


class MetricAggregator:
    """Told every event of a run, answers with a row when one is due: every `log_every` steps, at the last, and at
    evaluations."""

    def __init__(self) -> None:
        self._steps: list[StepEnd] = []

    def __call__(self, event: Event) -> MetricRow | None:
        match event:
            case StepEnd():
                self._steps.append(event)
                is_due = event.step % self._log_every == 0 or event.step == self._total_steps
                return self._aggregate_steps() if is_due else None
            case EvalEnd():
                return MetricRow(event.step, event.tokens, eval_metrics(event), eval_units(event))
            case RunStart():
                self._log_every, self._total_steps = event.log_every, event.total_steps
                constants = {f"constant/{name}": value for name, value in event.constants.items()}
                return MetricRow(0, 0, constants) if constants else None
            case RunEnd():
                return self._aggregate_steps() if self._steps else None
        return None

    def _aggregate_steps(self) -> MetricRow:
        steps, self._steps = self._steps, []
        return MetricRow(steps[-1].step, steps[-1].tokens, step_metrics(steps))


def step_metrics(steps: Sequence[StepEnd]) -> dict[str, float]:
    """The metrics of consecutive steps; a step that was skipped has no finite norm and was not clipped."""
    last, seconds = steps[-1], sum(step.seconds for step in steps)
    norms = [step.grad_norm for step in steps if math.isfinite(step.grad_norm)]
    metrics = {
        "train/loss": _mean(step.loss for step in steps),
        "train/lr": last.lr,
        "train/clip_fraction": _mean(step.is_clipped and step.skips == 0 for step in steps),
        "train/tokens": last.tokens,
    }
    if norms:
        metrics["train/grad_norm"] = _mean(norms)
    if seconds > 0:
        metrics["perf/tokens_per_second"] = sum(step.step_tokens for step in steps) / seconds
        metrics["perf/steps_per_second"] = len(steps) / seconds
    return metrics


def eval_metrics(event: EvalEnd) -> dict[str, float]:
    """Every metric the task reports, its standard error (`_se`) where that is known, the gradient's norm by layer, and
    the best loss once there is one."""
    metrics: dict[str, float] = {}
    for name, metric in event.metrics.items():
        metrics[f"val/{name}"] = metric.value
        if metric.standard_error is not None:
            metrics[f"val/{name}_se"] = metric.standard_error
    metrics |= {f"grad_norm/{layer}": norm for layer, norm in event.grad_norms.items()}
    if math.isfinite(event.best_val_loss):
        metrics["val/best_loss"] = event.best_val_loss
    return metrics


def eval_units(event: EvalEnd) -> dict[str, str]:
    return {f"val/{name}": metric.unit for name, metric in event.metrics.items()}


def describe_event(event: Event) -> str | None:
    """What a person is told of an event, if anything."""
    match event:
        case Notice():
            return event.text
        case OutOfMemory():
            size = event.micro_batch_size
            return f"step {event.step}: a micro-batch of {size} did not fit and is split: {event.message}"
        case Spike():
            told = f"step {event.step}: the loss spiked from about {event.baseline_loss:.4g} to {event.loss:.4g}"
            if event.restored_step is not None:
                return f"{told}; back to step {event.restored_step}, with {event.lr_factor:.3g} of the LR from there on"
            told = f"{told}; the last step before it was {event.last_good_step}"
            return f"{told}, and checkpoints from here on say so" if event.is_continuing else told
    return None


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
