"""Rows of metrics made from a run's events, and the text of the events that people should read."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.core.events import (
    EvalEnd,
    Event,
    FinalTest,
    Notice,
    OutOfMemory,
    RunEnd,
    RunStart,
    Spike,
    StepEnd,
)
from harness.core.task import Metric


@dataclass(frozen=True)
class MetricRow:
    """Metrics recorded at one step; `units` are those of the metrics that a task measures.

    A partial row ends with the run instead of at a multiple of `log_every`. It is dropped if the run is continued.
    """

    step: int
    tokens: int
    metrics: Mapping[str, float]
    units: Mapping[str, str] = field(default_factory=dict)
    is_partial: bool = False


class MetricAggregator:
    """Make rows of metrics, every `log_every` steps, at the last step and at evaluations. Call it for each event.

    A run that pauses makes its next row when it is continued.
    """

    def __init__(self) -> None:
        self._steps: list[StepEnd] = []  # since the last row
        self._log_every = self._total_steps = 0

    @property
    def pending(self) -> tuple[StepEnd, ...]:
        """Return the steps since the last row."""
        return tuple(self._steps)

    def __call__(self, event: Event) -> MetricRow | None:
        match event:
            case StepEnd():
                self._steps.append(event)
                is_due = event.step % self._log_every == 0 or event.step == self._total_steps
                return self._aggregate_steps() if is_due else None
            case EvalEnd():
                return MetricRow(event.step, event.tokens, eval_metrics(event), _name_units("val", event.metrics))
            case FinalTest():
                measured = _name_values("test", event.metrics)
                return MetricRow(event.step, event.tokens, measured, _name_units("test", event.metrics))
            case RunStart():
                self._log_every, self._total_steps = event.log_every, event.total_steps
                if event.past is not None:
                    self._steps = list(event.past.pending)
                    return None
                constants = {f"constant/{name}": value for name, value in event.constants.items()}
                return MetricRow(0, 0, constants) if constants else None
            case RunEnd():
                has_row = self._steps and event.status != "paused"
                return replace(self._aggregate_steps(), is_partial=True) if has_row else None
        return None

    def _aggregate_steps(self) -> MetricRow:
        steps, self._steps = self._steps, []
        return MetricRow(steps[-1].step, steps[-1].tokens, step_metrics(steps))


def step_metrics(steps: Sequence[StepEnd]) -> dict[str, float]:
    """Return the metrics of consecutive steps, as means; the LR and the token count are those of the last step.

    A skipped step does not count as clipped, and its gradient norm, which is not finite, is left out.
    """
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
    """Return the task's metrics with their standard errors (`_se`), the best loss and the gradient norm by layer."""
    metrics = _name_values("val", event.metrics)
    metrics |= {f"grad_norm/{layer}": norm for layer, norm in event.grad_norms.items()}
    if math.isfinite(event.best_val_loss):
        metrics["val/best_loss"] = event.best_val_loss
    return metrics


def describe_event(event: Event) -> str | None:
    """Return the message of a notice, an out-of-memory error or a spike, None for any other event."""
    match event:
        case Notice():
            return event.text
        case OutOfMemory():
            size = event.micro_batch_size
            return f"step {event.step}: out of memory, micro-batches of {size} are split: {event.message}"
        case Spike():
            spike = f"step {event.step}: loss spike from about {event.baseline_loss:.4g} to {event.loss:.4g}"
            if event.restored_step is not None:
                return f"{spike}; restored step {event.restored_step}, continuing with {event.lr_factor:.3g} of the LR"
            consequence = "; later checkpoints are marked" if event.is_continuing else ""
            return f"{spike}; last good step: {event.last_good_step}{consequence}"
    return None


def _name_values(split: str, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return a task's metrics on a split, with their standard errors."""
    named: dict[str, float] = {}
    for name, metric in metrics.items():
        named[f"{split}/{name}"] = metric.value
        if metric.standard_error is not None:
            named[f"{split}/{name}_se"] = metric.standard_error
    return named


def _name_units(split: str, metrics: Mapping[str, Metric]) -> dict[str, str]:
    return {f"{split}/{name}": metric.unit for name, metric in metrics.items()}


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)  # statistics.fmean fails on infinities of both signs
