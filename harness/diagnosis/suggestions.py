"""Settings that a diagnosis suggests, rounded to what is worth typing.

A suggested LR or length is a multiple of the present one. If the present LR is unknown, only the factor is given.
"""

import math

import numpy as np

from harness.core.events import CHECK_KEY, Suggestion
from harness.diagnosis.history import History
from harness.diagnosis.plateau_window import PEAK_TOLERANCE, drop_non_finite

CHECK_FOR_BUG, CHECK_LR = Suggestion(CHECK_KEY, "bug"), Suggestion(CHECK_KEY, "lr")
"""For a loss that does not move: too low and too high an LR, and most bugs, look alike."""
MIN_PEAK_POINTS = 2  # of a recorded LR, that show its peak
LENGTH_DIGITS = 3  # of a suggested number of steps
MIN_LEARNT_STEPS, MIN_LEARNT_ROWS = 20, 3  # before a checkpoint that is worth going back to; rows without steps
LEARNT_FALL = 0.01  # of the first loss, between the medians of its first and last third before that
RESUMED_INTERVALS = 5  # between rows, before the first one of a log that does not begin at the start
MORE_DECAY, USUAL_DECAY = 3, 0.1


def get_peak_lr(history: History) -> float | None:
    """Return the peak LR as configured, else the highest recorded one; None if there is none.

    A single recorded one may be that of the start or the end of a schedule, or of anything else.
    """
    recorded = history["train/lr"].values
    return history.facts.peak_lr or (float(recorded.max()) if len(recorded) >= MIN_PEAK_POINTS else 0.0) or None


def round_digits(value: float, digits: int = 2) -> float:
    """Return the value with so many significant digits."""
    return float(f"{value:.{digits}g}")


def suggest_lr(history: History, factor: float, since: int | None = None) -> Suggestion:
    """Suggest a multiple of the peak LR; of the highest one so far if a lower LR than that is needed.

    Args:
        since: The last step before the loss rose: the LRs that came later in a warm-up do not count.
    """
    lr, recorded = get_peak_lr(history), history["train/lr"]
    if lr and factor < 1 and len(recorded):
        last = len(recorded) if since is None else int(np.searchsorted(recorded.steps, since, side="right")) + 1
        reached = float(recorded.values[:last].max())
        if 0 < reached < (lr if since is not None else factor * lr):
            factor *= reached / lr
    return Suggestion("optimizer.lr", round_digits(factor * lr) if lr else None, factor)


def suggest_rollback(history: History, last_good_step: int) -> tuple[Suggestion, ...]:
    """Suggest to go back to before a rise of the loss; in another program, if something was learnt before."""
    if history.facts.program != "harness" and not _had_learnt(history, last_good_step):
        return ()
    return (Suggestion("loop.on_spike", "rollback", when=history.describe_step(last_good_step)),)


def _had_learnt(history: History, step: int) -> bool:
    """Return whether a checkpoint of `step` is worth more than a new start: the loss had fallen, or not from there."""
    losses = drop_non_finite(history["train/loss"] if len(history["train/loss"]) else history["val/loss"])
    steps, values = losses.steps[losses.steps <= step], losses.values[losses.steps <= step]
    has_steps = history.facts.steps_unit == "steps"
    is_start = step < MIN_LEARNT_STEPS if has_steps else len(values) < MIN_LEARNT_ROWS
    if len(values) < 2 or is_start:
        return False
    is_resumed = steps[0] > RESUMED_INTERVALS * max(1, int(np.median(np.diff(steps))))
    third = -(-len(values) // 3)
    fall = np.median(values[:third]) - np.median(values[-third:])
    return bool(is_resumed or fall > LEARNT_FALL * abs(values[0]))


def suggest_decay(history: History) -> tuple[Suggestion, ...]:
    """Suggest to let a constant LR decay, and nothing if it does or is below the band of a range test."""
    band, lr = history.facts.lr_band, get_peak_lr(history)
    is_too_low = band is not None and lr is not None and lr < band[0]
    return (Suggestion("schedule", "cosine"),) if _may_be_constant(history) and not is_too_low else ()


def _may_be_constant(history: History) -> bool:
    """Return whether the LR is constant after its warm-up, as far as is known; the Trainer's default decays."""
    facts, lrs = history.facts, history["train/lr"].values
    if facts.schedule is not None or not len(lrs):
        return facts.schedule == "Constant" or (facts.schedule is None and facts.program != "transformers")
    return bool(lrs[-1] >= PEAK_TOLERANCE * lrs.max())


def suggest_warmup(history: History, steps: float) -> Suggestion:
    """Suggest a warm-up of at least one step; a share of the run if its log counts no steps."""
    if history.facts.steps_unit == "steps":
        return Suggestion("schedule.warmup_steps", max(1, math.ceil(steps)))
    share = steps / max(1, history.facts.total_steps or 0, history.last_step)
    return Suggestion("schedule.warmup_ratio", min(0.5, round_digits(share)))


def suggest_double_length(history: History) -> Suggestion:
    """Suggest twice the length of the run, in the unit that sets it or that the log counts."""
    facts = history.facts
    if facts.length:
        return double_length(*facts.length)
    steps = max(facts.total_steps or 0, history.last_step)
    if facts.steps_unit == "rows":
        return Suggestion("loop.max_steps", None, 2.0)
    if facts.steps_unit == "steps":
        return Suggestion("loop.max_steps", round_up(2 * steps, LENGTH_DIGITS), 2.0)
    per_epoch, losses = facts.steps_per_epoch or 1, history["train/loss"]
    is_from_zero = per_epoch == 1 and len(losses) > 0 and losses.steps[0] == 0  # the last epoch then is one less
    epochs = 2 * (steps + is_from_zero) / per_epoch
    return Suggestion("loop.epochs", math.ceil(epochs) if epochs > 1 else round_digits(epochs), 2.0)


def round_up(count: int, digits: int) -> int:
    """Return the next integer with so many significant digits."""
    unit = 10 ** max(0, len(str(count)) - digits)
    return -(-count // unit) * unit


def double_length(key: str, length: float) -> Suggestion:
    """Suggest a run twice as long, as an integer where it is one."""
    double = 2 * float(length)
    return Suggestion(key, round(double) if double.is_integer() else float(f"{double:g}"), 2.0)


def suggest_regularization(history: History) -> tuple[Suggestion, ...]:
    """Suggest to stop early, and more weight decay."""
    present = history.facts.weight_decay
    if present is None and not _is_neural_network(history):  # maybe boosted trees, whose regularization differs
        decay = Suggestion("optimizer.weight_decay", None, float(MORE_DECAY))
    else:
        decay = Suggestion("optimizer.weight_decay", round_digits(max(USUAL_DECAY, MORE_DECAY * (present or 0))))
    return Suggestion("loop.patience", 2), decay


def _is_neural_network(history: History) -> bool:
    """Return whether the log shows it: by its program, its optimizer, or what is recorded of each step."""
    recorded = any(len(history[name]) for name in ("train/lr", "train/grad_norm", "train/tokens"))
    return recorded or history.facts.program is not None or history.facts.optimizer is not None
