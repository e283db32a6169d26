"""Whether a run learns: never, no longer, too little yet, or only what it was shown."""

import math
from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import History, Series
from harness.diagnosis.plateau_window import TrendWindow, completed_share, drop_non_finite, fit_trend_window, loss_scale
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import estimate_noise

HALF = 0.5
NEGLIGIBLE_CHANGE = 0.001
"""Of the first loss: a change that no user waits for a run to bring, be it noise or not."""
MIN_EVALS_FOR_NOISE = 6
"""Evaluations; of fewer the bend of the curve is taken for noise."""
DOUBLINGS = (1.0, 2.0, 4.0)
N_RECENT_EVALS = 4
"""Evaluations, the present one included, of which one has to be sure of a plateau."""


def detect_never_learnt(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """The loss is no better than a guess that ignores the input, or no better than it was at the start."""
    losses = _choose_losses(history)
    if completed_share(history) < HALF or len(losses) < 2:
        return
    best, start = float(losses.values[1:].min()), _initial_loss(losses)
    guess, unigram = history.facts.unigram or history.facts.uniform, history.facts.unigram
    found = fit_trend_window(history, limits)
    soon = found.fall_per_doubling if found else float(losses.values[(len(losses) - 1) // 2] - losses.values[-1])
    bar = (guess or 0.0) * (1 - limits.never_margin)
    if (
        guess
        and min(best - max(0.0, soon), _final_train_loss(history)) >= bar
        and not _is_falling(found, soon, best, limits)
    ):
        name = "the unigram or mean guess" if unigram else "a guess without knowledge"
        told = f"the best loss, {best:.4g}, is no better than {name} at {guess:.4g}: the input is not used"
        yield _describe_never_learnt(history, told, {"best": best, "guess": guess, "fall per doubling": soon})
    elif start and not (unigram and best < bar) and _stood_still(losses, limits):
        told = f"the loss went from {start:.4g} to {losses.values[-1]:.4g}: it did not move by more than its noise"
        yield _describe_never_learnt(history, told, {"start": start, "best": best})


def detect_plateau(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """The loss stands still although the LR is near its peak: over the last doublings of tokens it fell by less than a
    small share of itself each, and it did not fall when the LR did.

    Once sure of it, less will do at the next few evaluations, so that it does not come and go with the noise."""
    if (
        completed_share(history) < limits.least_share
        or (standing := find_flattest_window(history, limits, limits.plateau_fall)) is None
    ):
        return
    confidence, found = standing
    sure = confidence
    for until in reversed(history["val/loss"].steps[-N_RECENT_EVALS:-1].tolist()):
        before = find_flattest_window(history, limits, limits.plateau_fall, until)
        sure = max(sure, before[0] if before and sure >= HALF else 0.0)
    bound = _negligible_fall(history, found, limits, limits.plateau_fall)
    if confidence < HALF or sure < limits.confidence or _fell_afterwards(history, found, bound):
        return
    low, high = (-slope for slope in found.trend.interval(limits.confidence)[::-1])
    told = (
        f"{found.metric} stands at {found.trend.end:.4g}: from step {found.first} to {found.last} it {found.change_text} "
        f"(a fall of {low:.2g} to {high:.2g}), and less than {bound:.2g} is nothing"
    )
    yield Diagnosis(
        "plateau", found.last, confidence, told, found.to_evidence(limits.confidence), _suggest_schedule_and_lr(history)
    )


def detect_underfitting(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """At the end of the run the loss still fell by a good share of itself per doubling of tokens."""
    found = fit_trend_window(history, limits)
    is_over = completed_share(history) == 1 and history.facts.status in (None, "completed")
    if found is None or not is_over:
        return
    if (start := _initial_loss(drop_non_finite(history[found.metric]))) is not None and found.trend.end > start:
        return  # what comes down from above its start recovers
    bound = limits.underfit_fall * loss_scale(history[found.metric], found.trend.end)
    confidence = 1 - found.trend.confidence_above(-bound)
    if confidence >= limits.confidence:
        steps = history.facts.total_steps or history.last_step
        rank = " before more rank does" if history.facts.lora_rank else ""
        told = (
            f"{found.metric} still fell by {found.fall_per_doubling:.2g} per doubling of {found.unit} at {found.trend.end:.4g}, "
            f"from step {found.first} to {found.last}: more steps help{rank}"
        )
        overrides = ("loop.epochs=null", "loop.max_tokens=null", f"loop.max_steps={2 * steps}")
        yield Diagnosis("underfitting", found.last, confidence, told, found.to_evidence(limits.confidence), overrides)


def detect_overfitting(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """The validation loss rises from its best by more than its noise while the training loss goes on falling."""
    losses = drop_non_finite(history["val/loss"])
    if len(losses) < 4:
        return
    best = int(np.argmin(losses.values))
    after = losses.values[best + 1 :]
    noise = _evaluation_noise(history, losses)
    if len(after) < 2 or (gap := float(after[-2:].min() - losses.values[best])) <= 0:
        return
    if gap < limits.overfit_gap * loss_scale(losses, losses.values[best]) or gap < limits.overfit_z * noise:
        return
    fell = _train_loss_fall(history, int(losses.steps[best]))
    if fell is not None and fell <= 0:
        return
    z = gap / noise if noise else math.inf
    confidence = (1 - 0.5 * math.exp(-z / 2)) * (1.0 if fell is not None else 0.7)
    step, last = int(losses.steps[best]), int(losses.steps[-1])
    training = "" if fell is None else f", while train/loss fell by {fell:.2g}"
    told = (
        f"val/loss was best at step {step}, {losses.values[best]:.4g}, and has risen by {gap:.2g} (noise {noise:.2g}) "
        f"by step {last}{training}"
    )
    evidence = {"best step": step, "best": float(losses.values[best]), "gap": gap, "noise": noise, "to step": last}
    decay = max(0.1, 3 * (history.facts.weight_decay or 0))
    overrides = ("loop.patience=2", f"optimizer.weight_decay={decay:.2g}")
    yield Diagnosis("overfitting", step, confidence, told, evidence, overrides)


def find_flattest_window(
    history: History, limits: Thresholds, share: float, until: float = math.inf
) -> tuple[float, TrendWindow] | None:
    """Of the last one, two and four doublings the stretch over which the loss stood still most surely, by less than
    `share` of itself per doubling, and the confidence; more doublings show less through the same noise."""
    found = [fit_trend_window(history, limits, until, doublings) for doublings in DOUBLINGS]
    sure = [(one.trend.confidence_above(-_negligible_fall(history, one, limits, share)), one) for one in found if one]
    return max(sure, key=lambda pair: pair[0]) if sure else None


def _negligible_fall(history: History, found: TrendWindow, limits: Thresholds, share: float) -> float:
    """A fall per doubling that is none."""
    if limits.plateau_steps:
        return limits.plateau_drop / found.doublings
    return share * loss_scale(history[found.metric], found.trend.end)


def _describe_never_learnt(history: History, told: str, evidence: dict[str, float]) -> Diagnosis:
    """Without an LR to try: too low and too high look the same here."""
    told += "; python -m harness preflight looks for a fault, python -m harness lr-range for an LR that learns"
    return Diagnosis("never learnt", history.last_step, 0.95, told, evidence)


def _is_falling(found: TrendWindow | None, soon: float, level: float, limits: Thresholds) -> bool:
    """Whether it is on its way, if far from the guess: a short run from scratch is."""
    bound = limits.plateau_fall * abs(level)
    return soon > bound if found is None else 1 - found.trend.confidence_above(-bound) >= limits.confidence


def _stood_still(losses: Series, limits: Thresholds) -> bool:
    """Whether the change is small and within the noise, or next to nothing."""
    start, last = float(losses.values[0]), float(np.median(losses.values[1:][-3:]))
    if losses.values.min() < start - limits.never_fall * abs(start):
        return False
    noise = math.sqrt(2) * estimate_noise(losses.values) if len(losses) >= MIN_EVALS_FOR_NOISE else 0.0
    bound = min(limits.never_fall * abs(start), max(NEGLIGIBLE_CHANGE * abs(start), limits.overfit_z * noise))
    return abs(start - last) <= bound


def _choose_losses(history: History) -> Series:
    """Validation, where there are two evaluations, else training."""
    losses = drop_non_finite(history["val/loss"])
    return losses if len(losses) > 1 else drop_non_finite(history["train/loss"])


def _final_train_loss(history: History) -> float:
    """The level of the training loss at the end: where that is low, something was learnt, if only by heart."""
    values = drop_non_finite(history["train/loss"]).values
    return float(np.median(values[-max(3, len(values) // 10) :])) if len(values) else math.inf


def _initial_loss(losses: Series) -> float | None:
    """Where the loss began, if the curve goes back to there."""
    return float(losses.values[0]) if losses.steps[0] <= losses.steps[-1] / 10 else None


def _fell_afterwards(history: History, found: TrendWindow, bound: float) -> bool:
    """Whether the loss came down after the stretch, as it does where the LR was what held it up."""
    losses = drop_non_finite(history[found.metric])
    later = losses.values[losses.steps > found.last]
    if not len(later):
        return False
    level = float(np.median(later[-max(1, len(later) // 4) :]))
    return found.trend.end - level > bound


def _evaluation_noise(history: History, losses: Series) -> float:
    """Of a difference between two evaluations: seen, where there are enough of them, else by their standard error,
    which is too large where both are of the same set."""
    if len(losses) >= MIN_EVALS_FOR_NOISE:
        return math.sqrt(2) * estimate_noise(losses.values)
    errors = history["val/loss_se"].values
    return math.sqrt(2) * float(np.median(errors)) if len(errors) else 0.0


def _train_loss_fall(history: History, since: int) -> float | None:
    """Of the training loss, from around a step to the end; None where it has too few points."""
    losses = drop_non_finite(history["train/loss"])
    at = int(np.searchsorted(losses.steps, since))
    reach = max(2, len(losses) // 10)
    if len(losses) < 6 or at < 1 or len(losses) - at < 2:
        return None
    around = losses.values[max(0, at - reach) : at + reach]
    return float(np.median(around) - np.median(losses.values[-reach:]))


def _suggest_schedule_and_lr(history: History) -> tuple[str, ...]:
    lr = history.facts.peak_lr or max(history["train/lr"].values, default=0.0)
    is_flat = history.facts.schedule in (None, "Constant")
    overrides = ("schedule=cosine",) if is_flat else ()
    return (*overrides, f"optimizer.lr={3 * lr:.2g}") if lr else overrides
