"""The mathematics of diagnosis: what may be said of a run from its curves, live or long after."""

from harness.core.events import Diagnosis
from harness.diagnosis import evaluation_noise, gradients, instability, learning, learning_rate
from harness.diagnosis.evaluation_noise import check_comparability
from harness.diagnosis.history import History
from harness.diagnosis.thresholds import Thresholds

__all__ = ["check_comparability", "diagnose"]

RULES = (
    instability.detect_divergence,
    learning.detect_never_learnt,
    gradients.detect_vanishing_gradients,
    evaluation_noise.detect_coverage_change,
    learning_rate.detect_truncated_warmup,
    learning_rate.detect_short_warmup,
    instability.detect_spikes,
    learning_rate.detect_lr_outside_band,
    learning.detect_overfitting,
    learning_rate.detect_misled_scheduler,
    learning_rate.detect_idle_scheduler,
    learning.detect_plateau,
    learning.detect_underfitting,
    gradients.detect_binding_clip,
    gradients.high_norm,
    gradients.detect_dominating_layer,
    evaluation_noise.detect_noisy_evaluation,
    evaluation_noise.detect_throughput_drop,
)
"""What explains the most comes first."""

CONSEQUENCES = {
    "divergence": {"never learnt", "plateau", "underfitting", "overfitting", "scheduler idle", "noisy evaluation"},
    "never learnt": {"plateau", "underfitting", "overfitting"},
    "vanishing gradients": {"dominating layer"},
    "overfitting": {"plateau", "underfitting"},
}
"""What is not said beside a diagnosis because it follows from the same."""


def diagnose(history: History, limits: Thresholds | None = None) -> list[Diagnosis]:
    """All that holds of the run so far, what explains the most first; none for one that is as it should be."""
    limits = limits or Thresholds()
    found = [diagnosis for rule in RULES for diagnosis in rule(history, limits)]
    explained = set().union(*(CONSEQUENCES.get(diagnosis.kind, set()) for diagnosis in found))
    return [diagnosis for diagnosis in found if diagnosis.kind not in explained]
