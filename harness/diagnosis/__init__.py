"""Diagnosis of a run from its curves, during training or later. Pure functions: nothing here reads files."""

from collections.abc import Collection

from harness.core.events import Diagnosis
from harness.diagnosis import (
    divergence,
    evaluation_noise,
    gradients,
    learning_rate,
    never_learnt,
    overfitting,
    plateau,
    rising_loss,
    spikes,
    underfitting,
)
from harness.diagnosis.history import History
from harness.diagnosis.thresholds import Thresholds

RULES = (  # root causes first
    divergence.detect_divergence,
    never_learnt.detect_never_learnt,
    gradients.detect_vanishing_gradients,
    evaluation_noise.detect_coverage_change,
    learning_rate.detect_truncated_warmup,
    learning_rate.detect_short_warmup,
    overfitting.detect_overfitting,
    spikes.detect_spikes,
    learning_rate.detect_lr_outside_band,
    rising_loss.detect_worse_evaluations,
    learning_rate.detect_misled_scheduler,
    learning_rate.detect_idle_scheduler,
    rising_loss.detect_rising_loss,
    plateau.detect_plateau,
    underfitting.detect_underfitting,
    gradients.detect_binding_clip,
    gradients.detect_dominating_layer,
    evaluation_noise.detect_noisy_evaluation,
    evaluation_noise.detect_throughput_drop,
)

# Kinds that follow from a diagnosis and are not reported beside it.
CONSEQUENCES = {
    "divergence": {
        "never learnt",
        "learning rate too high",
        "rising loss",
        "plateau",
        "underfitting",
        "overfitting",
        "scheduler idle",
        "clipping binds",
        "noisy evaluation",
    },
    "never learnt": {"rising loss", "plateau", "underfitting", "overfitting"},
    "learning rate too high": {"rising loss", "plateau", "underfitting", "noisy evaluation"},
    "rising loss": {"plateau", "underfitting"},
    "vanishing gradients": {"dominating layer"},
    "warm-up too short": {"underfitting"},  # it recovers
    "overfitting": {"learning rate too high", "rising loss", "plateau", "underfitting", "noisy evaluation"},
}


def diagnose(history: History, thresholds: Thresholds | None = None) -> list[Diagnosis]:
    """Return the diagnoses of the run so far, root causes first; empty for a healthy run."""
    thresholds = thresholds or Thresholds()
    found = [diagnosis for rule in RULES for diagnosis in rule(history, thresholds)]
    explained = {kind for diagnosis in found for kind in CONSEQUENCES.get(diagnosis.kind, ())}
    seen_steps = {spike.last_good_step for spike in history.spikes}
    return [one for one in found if one.kind not in explained and not _is_part_of_divergence(one, found[0], seen_steps)]


def _is_part_of_divergence(diagnosis: Diagnosis, first: Diagnosis, seen_steps: Collection[int]) -> bool:
    """Return whether a spike, which only the curve shows, is the rise of a divergence or comes after it.

    Spikes that were seen during training began after `seen_steps`.
    """
    return (
        (diagnosis.kind, first.kind) == ("spike", "divergence")
        and diagnosis.evidence["last good step"] not in seen_steps
        and (diagnosis.step >= first.step or diagnosis.evidence["recovered"] == "no")
    )
