"""What the gradient's norm says: clipping that binds, layers that get nothing, one layer that gets it all."""

import math
from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import History
from harness.diagnosis.plateau_window import drop_non_finite
from harness.diagnosis.thresholds import Thresholds

LAYER_PREFIX = "grad_norm/"
MIN_ROWS, MIN_EVALS, MIN_LAYERS = 5, 2, 3
SCALE_INVARIANT_OPTIMIZERS = ("adam", "lion", "lamb", "adafactor", "muon")
"""Parts of the names of optimizers whose step does not change when all gradients are scaled alike."""


def detect_binding_clip(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """Nearly every step is clipped, so the clip is a part of the learning rate and no guard."""
    clip, norms, fraction = (
        history.facts.grad_clip,
        drop_non_finite(history["train/grad_norm"]).values,
        _get_clip_fraction(history),
    )
    if fraction is None or fraction < limits.clip_share:
        return
    evidence: dict[str, float | str] = {"clip fraction": fraction}
    told, overrides = f"{fraction:.0%} of the steps were clipped", ("loop.grad_clip=null",)
    if len(norms):
        p50, p90 = (float(value) for value in np.percentile(norms, [50, 90]))
        evidence |= {"norm p50": p50, "norm p90": p90}
        told += f": the norm before clipping is {p50:.2g} (p50) and {p90:.2g} (p90)"
        overrides = (f"loop.grad_clip={p90:.2g}",)
    if clip and math.isfinite(clip):
        evidence["clip"] = clip
        told += f", the clip {clip:g}"
    yield Diagnosis(
        "clipping binds", history.last_step, 0.99, f"{told}; {_explain_clipping(history)}", evidence, overrides
    )


def high_norm(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """The norm goes beyond a limit of the user's; there is none by default, for its size means nothing by itself."""
    norms = drop_non_finite(history["train/grad_norm"])
    above = np.flatnonzero(norms.values > limits.norm_limit)
    if len(above):
        step, norm = int(norms.steps[above[0]]), float(norms.values.max())
        told = f"the gradient norm went beyond {limits.norm_limit:g} at step {step}; its largest was {norm:.3g}"
        evidence = {"limit": limits.norm_limit, "first at": step, "largest": norm, "times": len(above)}
        yield Diagnosis("high gradient norm", step, 1.0, told, evidence, ("loop.grad_clip=1.0",))


def detect_vanishing_gradients(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """Layers whose norm stays a ten thousandth of the largest one's, or is 0, as where the graph is cut."""
    names, norms, steps = _stack_layer_norms(history)
    if not len(norms):
        return
    largest = norms.max(axis=1, keepdims=True)
    gone = (norms <= limits.vanish_ratio * largest).all(axis=0) & largest.all()
    if gone.any():
        few = [name for name, is_gone in zip(names, gone, strict=True) if is_gone]
        most = float(norms[-1, gone].max())
        told = (
            f"{len(few)} of {len(names)} layers have a gradient of at most {most:.2g}, such as {few[0]}, and the "
            f"largest is {norms[-1].max():.2g}: {'none' if most == 0 else 'hardly any'} reaches them"
        )
        evidence = {"layers": ", ".join(few[:8]), "largest of them": most, "largest of all": float(norms[-1].max())}
        yield Diagnosis("vanishing gradients", int(steps[-1]), 0.95, told, evidence)


def detect_dominating_layer(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """One layer holds nearly all of the squared norm at every evaluation, so it alone decides how much is clipped."""
    names, norms, steps = _stack_layer_norms(history)
    if not len(norms) or not norms.any(axis=1).all():
        return
    shares = norms**2 / (norms**2).sum(axis=1, keepdims=True)
    at = int(np.argmax(shares.min(axis=0)))
    share = float(np.median(shares[:, at]))
    if shares[:, at].min() >= limits.dominate_share:
        told = f"{names[at]} holds {share:.0%} of the squared gradient norm: it alone decides what is clipped"
        evidence = {"layer": names[at], "share": share, "layers": len(names)}
        yield Diagnosis("dominating layer", int(steps[-1]), 0.9, told, evidence)


def _get_clip_fraction(history: History) -> float | None:
    """Share of the steps, by what was recorded or else by the norms; None where neither tells."""
    fractions, norms, clip = (
        history["train/clip_fraction"].values,
        drop_non_finite(history["train/grad_norm"]).values,
        history.facts.grad_clip,
    )
    if len(fractions) >= MIN_ROWS:
        return float(fractions.mean())
    if len(norms) >= MIN_ROWS and clip:
        return float((norms > clip).mean())
    return None


def _explain_clipping(history: History) -> str:
    optimizer = history.facts.optimizer or "AdamW"
    if any(part in optimizer.lower() for part in SCALE_INVARIANT_OPTIMIZERS):
        return (
            f"under {optimizer} a clip of 1 or 2 changes little, for only the relative size of steps matters: set it "
            "to about the p90 or to null, and look at the LR and warm-up"
        )
    return "every step has the same length, LR times clip: set the clip to about the p90 and search the LR anew"


def _stack_layer_norms(history: History) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, norms (evaluations x layers) after the start, and steps; empty where there are too few."""
    names = history.metric_names(LAYER_PREFIX)
    series = [drop_non_finite(history[name]) for name in names]
    shared = sorted(set.intersection(*(set(one.steps.tolist()) for one in series)) - {0}) if series else []
    if len(names) < MIN_LAYERS or len(shared) < MIN_EVALS:
        return [], np.empty((0, 0)), np.empty(0)
    norms = np.stack([one.values[np.searchsorted(one.steps, shared)] for one in series], axis=1)
    return [name.removeprefix(LAYER_PREFIX) for name in names], norms, np.array(shared)
