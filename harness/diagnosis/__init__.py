"""The mathematics of diagnosis: what may be said of a run from its curves, live or long after."""

from harness.core.events import Verdict
from harness.diagnosis import evaluation_noise, gradients, instability, learning, learning_rate
from harness.diagnosis.evaluation_noise import compare
from harness.diagnosis.history import History
from harness.diagnosis.thresholds import Thresholds

__all__ = ["compare", "diagnose"]

RULES = (
    instability.divergence,
    learning.never_learnt,
    gradients.vanishing_gradients,
    evaluation_noise.changed_measure,
    learning_rate.warmup_truncated,
    learning_rate.warmup_too_short,
    instability.spike,
    learning_rate.learning_rate,
    learning.overfitting,
    learning_rate.scheduler_misled,
    learning_rate.scheduler_idle,
    learning.plateau,
    learning.underfitting,
    gradients.clipping_binds,
    gradients.high_norm,
    gradients.dominating_layer,
    evaluation_noise.noisy_evaluation,
    evaluation_noise.throughput_fell,
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
