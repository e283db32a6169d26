"""Settings that a diagnosis suggests, rounded to what is worth typing.

A suggested LR or length is a multiple of the present one. If the present LR is unknown, only the factor is given.
"""

import math

from harness.core.events import CHECK_KEY, Suggestion
from harness.diagnosis.history import History
from harness.diagnosis.plateau_window import PEAK_TOLERANCE

CHECK_FOR_BUG, CHECK_LR = Suggestion(CHECK_KEY, "bug"), Suggestion(CHECK_KEY, "lr")
"""For a loss that does not move: too low and too high an LR, and most bugs, look alike."""
MIN_PEAK_POINTS = 2  # of a recorded LR, that show its peak
LENGTH_DIGITS = 3  # of a suggested number of steps


def get_peak_lr(history: History) -> float | None:
    """Return the peak LR as configured, else the highest recorded one; None if there is none.

    A single recorded one may be that of the start or the end of a schedule, or of anything else.
    """
    recorded = history["train/lr"].values
    return history.facts.peak_lr or (float(recorded.max()) if len(recorded) >= MIN_PEAK_POINTS else 0.0) or None


def round_digits(value: float, digits: int = 2) -> float:
    """Return the value with so many significant digits."""
    return float(f"{value:.{digits}g}")


def suggest_lr(history: History, factor: float) -> Suggestion:
    """Suggest a multiple of the peak LR; of the highest one so far if a lower LR than that is needed."""
    lr, reached = get_peak_lr(history), float(max(history["train/lr"].values, default=0.0))
    if lr and factor < 1 and 0 < reached < factor * lr:  # still in its warm-up
        factor *= reached / lr
    return Suggestion("optimizer.lr", round_digits(factor * lr) if lr else None, factor)


def suggest_rollback(history: History, last_good_step: int) -> tuple[Suggestion, ...]:
    """Suggest to go back to before a rise of the loss; for a log of another program, there must be something before."""
    losses = history["train/loss"]
    is_from_start = last_good_step <= 0 or (len(losses) > 0 and last_good_step < losses.steps[0])
    if is_from_start and history.facts.program != "harness":
        return ()
    return (Suggestion("loop.on_spike", "rollback", when=history.describe_step(last_good_step)),)


def suggest_decay_and_lr(history: History, is_rising: bool) -> tuple[Suggestion, ...]:
    """Suggest a decay of a constant LR, and a higher LR unless the loss rises."""
    decay = (Suggestion("schedule", "cosine"),) if _may_be_constant(history) else ()
    return decay if is_rising else (*decay, suggest_lr(history, 3))


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
    decay = round_digits(max(0.1, 3 * (history.facts.weight_decay or 0)))
    return Suggestion("loop.patience", 2), Suggestion("optimizer.weight_decay", decay)
