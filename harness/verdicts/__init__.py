"""The mathematics of diagnosis: what may be said of a run from its curves, live or long after."""

from harness.events import Verdict
from harness.verdicts import breaks, course, gradients, measurement, rates
from harness.verdicts.history import History
from harness.verdicts.measurement import compare
from harness.verdicts.thresholds import Thresholds

__all__ = ["compare", "diagnose"]

RULES = (
    breaks.divergence,
    course.never_learnt,
    gradients.vanishing_gradients,
    measurement.changed_measure,
    rates.warmup_truncated,
    rates.warmup_too_short,
    breaks.spike,
    rates.learning_rate,
    course.overfitting,
    rates.scheduler_misled,
    rates.scheduler_idle,
    course.plateau,
    course.underfitting,
    gradients.clipping_binds,
    gradients.high_norm,
    gradients.dominating_layer,
    measurement.noisy_evaluation,
    measurement.throughput_fell,
)
"""What explains the most comes first."""

EXPLAINED = {
    "divergence": {"never learnt", "plateau", "underfitting", "overfitting", "scheduler idle", "noisy evaluation"},
    "never learnt": {"plateau", "underfitting", "overfitting"},
    "vanishing gradients": {"dominating layer"},
    "overfitting": {"plateau", "underfitting"},
}
"""What is not said beside a verdict because it follows from the same."""


def diagnose(history: History, limits: Thresholds | None = None) -> list[Verdict]:
    """All that holds of the run so far, what explains the most first; none for one that is as it should be."""
    limits = limits or Thresholds()
    found = [verdict for rule in RULES for verdict in rule(history, limits)]
    explained = set().union(*(EXPLAINED.get(verdict.kind, set()) for verdict in found))
    return [verdict for verdict in found if verdict.kind not in explained]
