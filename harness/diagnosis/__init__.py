"""Diagnosis of a run from its curves, during training or later. Pure functions: nothing here reads files."""

from harness.core.events import Diagnosis
from harness.diagnosis import evaluation_noise, gradients, instability, learning, learning_rate
from harness.diagnosis.history import History
from harness.diagnosis.thresholds import Thresholds

RULES = (  # root causes first
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
    learning.detect_rising_loss,
    learning.detect_plateau,
    learning.detect_underfitting,
    gradients.detect_binding_clip,
    gradients.detect_dominating_layer,
    evaluation_noise.detect_noisy_evaluation,
    evaluation_noise.detect_throughput_drop,
)

# Kinds that follow from a diagnosis and are not reported beside it.
CONSEQUENCES = {
    "divergence": {
        "never learnt",
        "rising loss",
        "plateau",
        "underfitting",
        "overfitting",
        "scheduler idle",
        "noisy evaluation",
    },
    "never learnt": {"rising loss", "plateau", "underfitting", "overfitting"},
    "rising loss": {"plateau", "underfitting"},
    "vanishing gradients": {"dominating layer"},
    "overfitting": {"rising loss", "plateau", "underfitting"},
}


def diagnose(history: History, thresholds: Thresholds | None = None) -> list[Diagnosis]:
    """Return the diagnoses of the run so far, root causes first; empty for a healthy run."""
    thresholds = thresholds or Thresholds()
    found = [diagnosis for rule in RULES for diagnosis in rule(history, thresholds)]
    explained = {kind for diagnosis in found for kind in CONSEQUENCES.get(diagnosis.kind, ())}
    return [diagnosis for diagnosis in found if diagnosis.kind not in explained]
