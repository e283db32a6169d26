"""Diagnoses from gradient norms: clipping, layers without gradient, one dominating layer."""

import math
from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis, Suggestion
from harness.diagnosis.history import Evidence, History
from harness.diagnosis.plateau_window import drop_non_finite
from harness.diagnosis.suggestions import round_digits
from harness.diagnosis.thresholds import Thresholds

LAYER_PREFIX = "grad_norm/"
MIN_NORM_ROWS, MIN_LAYER_EVALS, MIN_LAYERS = 5, 2, 3
# Parts of optimizer names whose update stays the same if all gradients are scaled alike.
SCALE_INVARIANT_OPTIMIZERS = ("adam", "lion", "lamb", "adafactor", "muon")


def detect_binding_clip(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if nearly every step is clipped: the clip then acts as part of the learning rate."""
    fraction = _get_clip_fraction(history)
    if fraction is None or fraction < thresholds.clip_fraction:
        return
    clip, norms = history.facts.grad_clip, drop_non_finite(history["train/grad_norm"]).values
    evidence: Evidence = {"clip fraction": fraction}
    reason, suggestion = f"{fraction:.0%} of the steps were clipped", Suggestion("loop.grad_clip", None)
    if len(norms):
        p50, p90 = (float(value) for value in np.percentile(norms, [50, 90]))
        evidence |= {"norm p50": p50, "norm p90": p90}
        reason += f": the norm before clipping is {p50:.2g} (p50) and {p90:.2g} (p90)"
        suggestion = Suggestion("loop.grad_clip", round_digits(p90))
    if clip and math.isfinite(clip):
        evidence["clip"] = clip
        reason += f", the clip is {clip:g}"
    optimizer = history.facts.optimizer
    suggestions: tuple[Suggestion, ...] = (suggestion,)
    if is_scale_invariant(optimizer):
        suggestions = ()
        meaning = (
            f"with {optimizer or 'AdamW'} another clip changes little, since only the relative size of steps matters: "
            "look at the LR and warm-up instead"
        )
    else:
        meaning = "every update has the same length, LR times clip: set the clip near the p90 and tune the LR again"
    yield Diagnosis("clipping binds", history.last_step, 0.99, f"{reason}; {meaning}", evidence, suggestions)


def is_scale_invariant(optimizer: str | None) -> bool:
    """Return whether the updates of an optimizer stay the same if all gradients are scaled; AdamW if it is unknown."""
    return any(part in (optimizer or "AdamW").lower() for part in SCALE_INVARIANT_OPTIMIZERS)


def detect_vanishing_gradients(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if layers have 1/10,000 of the largest norm or less at every evaluation."""
    names, norms, steps = _stack_layer_norms(history)
    if not len(norms):
        return
    largest = norms.max(axis=1, keepdims=True)
    is_vanishing = (norms <= thresholds.vanishing_ratio * largest).all(axis=0) & largest.all()
    if is_vanishing.any():
        layers = [name for name, vanishes in zip(names, is_vanishing, strict=True) if vanishes]
        most, overall = float(norms[-1, is_vanishing].max()), float(norms[-1].max())
        reason = (
            f"{len(layers)} of {len(names)} layers, such as {layers[0]}, have a gradient norm of at most {most:.2g}; "
            f"the largest is {overall:.2g}"
        )
        evidence: Evidence = {"layers": ", ".join(layers[:8]), "largest of them": most, "largest of all": overall}
        yield Diagnosis("vanishing gradients", int(steps[-1]), 0.95, reason, evidence)


def detect_dominating_layer(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if one layer has nearly all of the squared norm at every evaluation."""
    names, norms, steps = _stack_layer_norms(history)
    if not len(norms) or not norms.any(axis=1).all():
        return
    fractions = norms**2 / (norms**2).sum(axis=1, keepdims=True)
    at = int(np.argmax(fractions.min(axis=0)))
    fraction = float(np.median(fractions[:, at]))
    if fractions[:, at].min() >= thresholds.dominating_fraction:
        reason = f"{names[at]} has {fraction:.0%} of the squared gradient norm: it alone decides how much is clipped"
        evidence: Evidence = {"layer": names[at], "fraction": fraction, "layers": len(names)}
        yield Diagnosis("dominating layer", int(steps[-1]), 0.9, reason, evidence)


def _get_clip_fraction(history: History) -> float | None:
    """Return the fraction of clipped steps as recorded, else estimated from the norms; None if unknown."""
    fractions, norms = history["train/clip_fraction"].values, drop_non_finite(history["train/grad_norm"]).values
    if len(fractions) >= MIN_NORM_ROWS:
        return float(fractions.mean())
    clip = history.facts.grad_clip
    return float((norms > clip).mean()) if len(norms) >= MIN_NORM_ROWS and clip else None


def _stack_layer_norms(history: History) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return layer names, norms [evaluations, layers] after step 0, and steps; empty if there are too few."""
    names = history.metric_names(LAYER_PREFIX)
    series = [drop_non_finite(history[name]) for name in names]
    steps = sorted(set.intersection(*(set(one.steps.tolist()) for one in series)) - {0}) if series else []
    if len(names) < MIN_LAYERS or len(steps) < MIN_LAYER_EVALS:
        return [], np.empty((0, 0)), np.empty(0)
    norms = np.stack([one.values[np.searchsorted(one.steps, steps)] for one in series], axis=1)
    return [name.removeprefix(LAYER_PREFIX) for name in names], norms, np.array(steps)
