"""What the learning rate did: against its band, in its warm-up, and by its schedule."""

import math
from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import History
from harness.diagnosis.learning import find_flattest_window
from harness.diagnosis.plateau_window import PEAK_TOLERANCE, completed_share, drop_non_finite
from harness.diagnosis.thresholds import Thresholds

MAX_WARMUP_SHARE = 0.3
"""Share of the run by which a peak of the LR is one of warm-up."""
AFTER_PEAK_SHARE = 0.1
"""Share of the run after it in which a rise is put down to it."""
LR_TOLERANCE = 1e-6


def detect_lr_outside_band(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """The peak LR lies outside the band of a range test of this experiment."""
    lr, band = _get_peak_lr(history), history.facts.lr_band
    if not lr or not band or band[0] <= lr <= band[1]:
        return
    kind = "learning rate too low" if lr < band[0] else "learning rate too high"
    middle = math.sqrt(band[0] * band[1])
    told = (
        f"the peak LR of {lr:.2g} lies outside the {band[0]:.2g} to {band[1]:.2g} in which the range test's loss falls"
    )
    evidence = {"peak LR": lr, "band from": band[0], "band to": band[1]}
    yield Diagnosis(kind, history.last_step, 0.9, told, evidence, (f"optimizer.lr={middle:.1g}",))


def detect_truncated_warmup(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """A warm-up was asked for and there is none, by what is in force or by the LR itself."""
    asked, given, lr = history.facts.warmup_asked, history.facts.warmup_steps, history["train/lr"]
    if not asked or asked <= 0:
        return
    if given is None and len(lr) > 2:
        given = int(lr.steps[np.argmax(lr.values >= PEAK_TOLERANCE * lr.values.max())])
        given = 0 if given == lr.steps[0] and given < asked / 2 else given
    if given == 0:
        steps = max(1, math.ceil(asked))
        told = f"a warm-up of {asked:.4g} steps was asked for and 0 are in force: the first update has the whole LR"
        overrides = ("schedule.warmup_ratio=null", f"schedule.warmup_steps={steps}")
        yield Diagnosis("warm-up truncated", 0, 1.0, told, {"asked": asked, "in force": 0}, overrides)


def detect_short_warmup(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """Right after the LR came to its peak, early in the run, the loss rose or the gradient's norm jumped."""
    lr, total = history["train/lr"], history.facts.total_steps or history.last_step
    if len(lr) < 4:
        return
    peak = int(lr.steps[np.argmax(lr.values >= PEAK_TOLERANCE * lr.values.max())])
    if peak > MAX_WARMUP_SHARE * total:
        return
    until = peak + max(peak, AFTER_PEAK_SHARE * total)
    for seen in (_find_loss_rise(history, peak, until, limits), _find_norm_jump(history, peak, until, limits)):
        if seen:
            told, evidence = seen
            steps = max(2 * (history.facts.warmup_steps or 0), round(0.1 * total), 1)
            overrides = ("schedule.warmup_ratio=null", f"schedule.warmup_steps={steps}")
            yield Diagnosis("warm-up too short", peak, 0.85, told, {"peak LR at": peak, **evidence}, overrides)
            return


def detect_idle_scheduler(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """A plateau schedule left the LR alone while the validation loss stood still."""
    lr, evals = history["train/lr"].values, drop_non_finite(history["val/loss"])
    if (
        not _has_plateau_schedule(history)
        or len(lr) < 3
        or len(evals) < 3
        or completed_share(history) < limits.least_share
    ):
        return
    held = lr[int(np.argmax(lr >= PEAK_TOLERANCE * lr.max())) :]
    standing = find_flattest_window(history, limits, 3 * limits.plateau_fall)  # a patience acts on less than a plateau
    if held.min() < lr.max() * (1 - LR_TOLERANCE) or standing is None or standing[0] < limits.confidence:
        return
    found = standing[1]
    patience = history.facts.patience
    told = f"the plateau schedule left the LR at {lr.max():.2g} while {found.metric} {found.change_text}"
    evidence: dict[str, float | str] = {"LR": float(lr.max()), **found.to_evidence(limits.confidence)}
    if patience is not None:
        earliest = _earliest_cut_step(evals.steps[evals.steps > 0], patience)
        evidence |= {"patience": patience, "earliest cut at": earliest}
        told += f"; with a patience of {patience} it could act at step {earliest} at the earliest"
    shorter = max(0, min(len(evals) // 3, len(evals) if patience is None else patience) - 1)
    yield Diagnosis("scheduler idle", history.last_step, 0.9, told, evidence, (f"schedule.patience={shorter}",))


def detect_misled_scheduler(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """A plateau schedule watches the training loss, by what is known or by cuts while the validation loss improved."""
    watches = history.facts.watches
    if watches == "train/loss":
        told = "the plateau schedule watches train/loss, which says nothing of what is held out"
        yield Diagnosis("scheduler misled", 0, 1.0, told, {"watches": watches}, ("schedule=plateau",))
    elif watches is None and _has_plateau_schedule(history):
        cuts = _cuts_while_improving(history)
        if cuts:
            told = (
                f"the LR was cut at step {cuts[0]} although val/loss was at its best there: it watches something else"
            )
            evidence = {"first such cut": cuts[0], "such cuts": len(cuts)}
            yield Diagnosis("scheduler misled", cuts[0], 0.8, told, evidence, ("schedule=plateau",))


def _find_loss_rise(
    history: History, peak: int, until: float, limits: Thresholds
) -> tuple[str, dict[str, float]] | None:
    """Of the training loss above its own first rows: the validation loss knows no dropout and may be in another
    unit."""
    losses = drop_non_finite(history["train/loss"])
    before = losses.values[losses.steps <= peak]
    after = losses.values[(losses.steps > peak) & (losses.steps <= until)]
    if not len(before) or len(after) < 2:
        return None
    least = float(before.min())
    noise = float(np.median(np.abs(np.diff(losses.values)))) * 1.05
    rise = float(np.sort(after)[-2]) - least  # the second largest: one row is no rise
    if rise <= max(limits.warmup_rise * abs(least), limits.spike_z * noise):
        return None
    return (
        f"train/loss rose by {rise:.2g} from {least:.4g} right after the LR came to its peak at step {peak}",
        {"rise": rise, "before": least},
    )


def _find_norm_jump(
    history: History, peak: int, until: float, limits: Thresholds
) -> tuple[str, dict[str, float]] | None:
    norms = drop_non_finite(history["train/grad_norm"])
    before = norms.values[norms.steps <= peak]
    after = norms.values[(norms.steps > peak) & (norms.steps <= until)]
    later = norms.values[norms.steps > until]
    if len(before) < 3 or not len(after) or len(later) < 3:
        return None
    usually = max(float(np.median(before)), float(np.median(later)))
    if after.max() <= limits.norm_jump * usually:
        return None
    return (
        f"right after the LR's peak at step {peak} the norm jumped to {after.max():.2g}, usually {usually:.2g}",
        {"norm": float(after.max()), "usual norm": usually},
    )


def _get_peak_lr(history: History) -> float | None:
    return history.facts.peak_lr or max(history["train/lr"].values, default=None)


def _has_plateau_schedule(history: History) -> bool:
    return "plateau" in (history.facts.schedule or "").lower()


def _earliest_cut_step(steps: np.ndarray, patience: int) -> int:
    """The step of the evaluation after which a first cut can come: one that is best and more than `patience` others."""
    every = float(np.median(np.diff(np.r_[0, steps])))
    return int(steps[patience + 1]) if patience + 1 < len(steps) else round(every * (patience + 2))


def _cuts_while_improving(history: History) -> list[int]:
    lr, val = history["train/lr"], drop_non_finite(history["val/loss"])
    cuts = lr.steps[1:][lr.values[1:] < lr.values[:-1] * (1 - LR_TOLERANCE)]
    best = np.minimum.accumulate(val.values)
    improving = []
    for cut in cuts:
        seen = int(np.searchsorted(val.steps, cut))  # evaluations before the cut
        if seen >= 3 and best[seen - 1] < best[seen - 2] < best[seen - 3]:
            improving.append(int(cut))
    return improving
