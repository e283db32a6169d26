"""Diagnosis of a run that never learnt."""

import math
from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import Evidence, History, Series
from harness.diagnosis.known_guesses import find_final_guess
from harness.diagnosis.loss_curves import count_constant_end, find_flat_loss, get_initial_loss, select_loss
from harness.diagnosis.plateau_window import (
    TrendWindow,
    completed_fraction,
    drop_non_finite,
    fit_trend_window,
    has_enough_points,
)
from harness.diagnosis.suggestions import CHECK_FOR_BUG, CHECK_LR
from harness.diagnosis.thresholds import Thresholds

GUESS_CONFIDENCE = 0.7  # the number of classes is a guess, too
MIN_STUCK_ROWS = 8  # exactly the same, at the end
STUCK_FRACTION = 0.9  # of the first loss, below which a constant loss has been learnt


def detect_never_learnt(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the loss is no better than a guess that ignores the input, or than at the start."""
    if completed_fraction(history) < 0.5 or not has_enough_points(history, thresholds):
        return
    judged, values = select_loss(history, thresholds)
    if not values.values.any():
        if not _has_gradients(history):  # as a policy gradient with a loss of 0 has
            yield _describe_zero_loss(history, judged, len(values))
        return
    val, train = (drop_non_finite(history[metric]) for metric in ("val/loss", "train/loss"))
    name, losses = ("val/loss", val) if len(val) > 1 else ("train/loss", train)
    best = float(losses.values[1:].min())
    unigram = history.facts.unigram_loss
    guess = unigram or history.facts.uniform_loss
    window = fit_trend_window(history, thresholds)
    halfway_fall = float(losses.values[(len(losses) - 1) // 2] - losses.values[-1])
    fall = window.fall_per_doubling if window else halfway_fall
    bound = (guess or 0.0) * (1 - thresholds.never_learnt_margin)
    # the training loss counts too: if it is low, the model learnt something, even if only the training set
    lowest = min(best - max(0.0, fall), _get_final_train_loss(history))
    if guess and lowest >= bound and not _is_falling(window, fall, best, thresholds):
        baseline = "the unigram or mean baseline" if unigram else "a uniform guess"
        since = " after the start" * bool(losses.values[0] < best)
        reason = f"the best {name}{since}, {best:.4g}, is no better than {baseline} at {guess:.4g}: "
        reason += "the model ignores its input"
        evidence: Evidence = {"best": best, "baseline": guess, "fall per doubling": fall}
    elif stuck := _find_stuck_loss(history) or _find_known_guess(history, name, losses):
        yield stuck
        return
    elif not (unigram and best < bound) and (flat := find_flat_loss(history, thresholds)):
        reason = flat.text
        evidence = {"start": float(flat.losses.values[0]), "best": float(flat.losses.values[1:].min())}
        evidence |= {"points": len(flat.losses), "change at least": flat.low, "at most": flat.high}
    else:
        return
    # no LR is suggested: too low and too high look the same here
    yield Diagnosis("never learnt", history.last_step, 0.95, reason, evidence, (CHECK_FOR_BUG, CHECK_LR))


def _find_stuck_loss(history: History) -> Diagnosis | None:
    """Return the diagnosis of a training loss that is exactly the same in many rows, and no lower than at its start."""
    losses = drop_non_finite(history["train/loss"])
    count = count_constant_end(losses.values)
    if count < max(MIN_STUCK_ROWS, len(losses) / 4) or not get_initial_loss(losses):
        return None
    if losses.values[-1] < STUCK_FRACTION * losses.values[0]:
        return None
    since, last = losses.steps[-count], float(losses.values[-1])
    reason = (
        f"train/loss is exactly {last:.6g} in all {count} rows since {history.describe_step(since)}: the model "
        "does not change any more, or its output ignores its input"
    )
    evidence: Evidence = {"start": float(losses.values[0]), "best": last, "points": count}
    return Diagnosis("never learnt", history.last_step, 0.95, reason, evidence, (CHECK_FOR_BUG, CHECK_LR))


def _find_known_guess(history: History, name: str, losses: Series) -> Diagnosis | None:
    """Return the diagnosis of a loss that came to that of a uniform guess, if the number of classes is unknown."""
    count = None if history.facts.uniform_loss else find_final_guess(losses)
    if count is None:
        return None
    last = float(losses.values[-1])
    reason = (
        f"{name} stays at {last:.4g} since {history.describe_step(losses.steps[len(losses) // 2])}, which is ln "
        f"{count:,}: that of a uniform guess, if there are so many classes or tokens"
    )
    evidence: Evidence = {"best": float(losses.values.min()), "baseline": math.log(count), "points": len(losses)}
    return Diagnosis("never learnt", history.last_step, GUESS_CONFIDENCE, reason, evidence, (CHECK_FOR_BUG, CHECK_LR))


def _is_falling(window: TrendWindow | None, fall: float, level: float, thresholds: Thresholds) -> bool:
    """Return whether the loss is on its way down, even if still far from the baseline, as early in pretraining."""
    bound = thresholds.plateau_fall * abs(level)
    return fall > bound if window is None else 1 - window.trend.confidence_above(-bound) >= thresholds.confidence


def _has_gradients(history: History) -> bool:
    norms = drop_non_finite(history["train/grad_norm"]).values
    return len(norms) > 0 and float(np.median(norms)) > 0


def _describe_zero_loss(history: History, name: str, count: int) -> Diagnosis:
    """Return the diagnosis of a loss that measures nothing: a bug, whatever the LR."""
    reason = (
        f"{name} is exactly 0 at all {count} points: no target is scored, or something else than the loss is recorded"
    )
    evidence: Evidence = {"start": 0.0, "best": 0.0, "points": count}
    return Diagnosis("never learnt", history.last_step, 1.0, reason, evidence, (CHECK_FOR_BUG,))


def _get_final_train_loss(history: History) -> float:
    values = drop_non_finite(history["train/loss"]).values
    return float(np.median(values[-max(3, len(values) // 10) :])) if len(values) else math.inf
