"""Slopes and projections of the losses, and which problems could not have been found; said beside the diagnoses.

"No problems found" is only said where the rules could have found some, and no loss surely rises. Of a loss

- that is flat from the start: never learnt, or a plateau if the weights had learnt before; "cannot tell" if it
  is a training loss of a kind that may stay flat while the model learns;
- that is flat after it fell: plateau, or "cannot tell whether it is a plateau";
- that falls: its slope with the interval, and the loss at twice the steps "at this rate"; through noise: "cannot
  tell whether it learns" if neither a fall since the start nor a plateau is sure;
- that rises: rising loss, divergence or overfitting, and no higher LR; at least "the loss rises";
- of a few points: their slope, with an interval that is wide, how many there are, and how many the rules need;
- of 400 rows without evaluations: the same as of evaluations, from the training loss; overfitting is not judged;
- that is not finite at the end: divergence; anywhere: how many rows are not.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.divergence import MIN_ROWS_AFTER, MIN_ROWS_BEFORE
from harness.diagnosis.history import LOSS_METRICS, History, Series
from harness.diagnosis.known_guesses import find_known_guess
from harness.diagnosis.loss_curves import (
    fit_whole_change,
    get_initial_loss,
    has_surely_fallen,
    may_stay_flat,
    select_loss,
)
from harness.diagnosis.overfitting import MIN_FALL_ROWS, MIN_OVERFIT_EVALS
from harness.diagnosis.plateau_window import (
    MIN_TRAIN_ROWS,
    TrendWindow,
    completed_fraction,
    drop_non_finite,
    find_flattest_window,
    find_peak_lr_steps,
    fit_trend_window,
    has_enough_points,
    knows_lr,
    loss_scale,
)
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import Trend, fit_trend

MIN_SLOPE_POINTS = 3  # two leave no degree of freedom for an error
MIN_DOUBLINGS = 0.5  # of a slope per doubling, and for a projection; a shorter part has its change alone
SMALL_FALL = 0.1  # of the loss per doubling, which may go on by the same amount; a larger one by the same ratio
DECAYED_FRACTION = 0.9  # of the peak LR
BASIC_RULES = ("divergence", "never learnt", "plateau", "underfitting", "overfitting")
# Diagnoses of whether the loss falls, or that leave the question open no longer.
LEARNING_KINDS = ("divergence", "never learnt", "plateau", "rising loss", "underfitting", "overfitting")
SCHEDULE_KINDS = ("warm-up truncated", "warm-up too short", "scheduler misled", "scheduler idle")
FLAT_FACTOR = 2.0  # times plateau_fall; a loss that falls by less looks flat
UNPROJECTED_KINDS = {"divergence", "never learnt", "overfitting", "rising loss"}  # beside which no fall goes on
NEGLIGIBLE_SLOPE = 1e-6  # of the loss, per doubling


@dataclass(frozen=True)
class Assessment:
    """A `conclusion` for a run without diagnoses, the slope of each loss, and what could not be judged and why.

    `not_finite` says how many rows of which loss are not, if any.
    """

    conclusion: str
    slopes: tuple[str, ...]
    not_judged: tuple[str, ...]
    not_finite: tuple[str, ...] = ()

    def lines(self, has_diagnoses: bool) -> list[str]:
        """Return all as lines for the terminal."""
        unjudged = [f"not judged: {'; '.join(self.not_judged)}"] if self.not_judged else []
        return [*([] if has_diagnoses else [self.conclusion]), *self.slopes, *self.not_finite, *unjudged]


def assess(history: History, thresholds: Thresholds | None = None, diagnoses: Sequence[Diagnosis] = ()) -> Assessment:
    """Return what the curves show, and which problems their rules could not have found."""
    thresholds = thresholds or Thresholds()
    missing = dict(_find_missing(history, thresholds, diagnoses))
    judged = [rule for rule in BASIC_RULES if rule not in missing]
    slopes = [_fit_slope(history, name, thresholds) for name in ("val/loss", "train/loss")]
    rising = [slope for slope in slopes if slope and slope.direction == "rising"]
    if not has_enough_points(history, thresholds):
        conclusion = f"too few points to say anything: {_count_points(history)}; {_describe_need(thresholds)}"
        conclusion += _describe_known_guess(history)
    elif rising:
        conclusion = "; ".join(f"{slope.metric} rises: {slope.text}" for slope in rising)
    elif "never learnt" in missing and may_stay_flat(history):
        conclusion = (
            f"cannot tell whether it learns: {missing['never learnt']}; the loss of a diffusion, adversarial or policy "
            "gradient model may stay flat while it learns: look at what the model makes, or add an evaluation"
        )
    elif "never learnt" in missing and "plateau" in missing:
        conclusion = f"cannot tell whether it learns: {missing['never learnt']}"
    elif flat_part := _describe_flat_part(history, thresholds):
        conclusion = f"cannot tell whether it is a plateau: {flat_part}"
    else:
        conclusion = f"no problems found; judged: {', '.join(judged)}"
    may_project = not UNPROJECTED_KINDS & {diagnosis.kind for diagnosis in diagnoses} and not rising
    lines = []
    for name, slope in zip(("val/loss", "train/loss"), slopes, strict=True):
        if slope is not None:
            projection = _project_loss(history, slope) if may_project and slope.direction == "falling" else ""
            lines.append(f"slope of {name}: {slope.text}: {slope.direction}{projection}")
        elif len(history[name]):
            lines.append(f"slope of {name}: unknown, {_list_values(history, name)}")
    return Assessment(conclusion, tuple(lines), tuple(_join_reasons(missing)), tuple(_count_non_finite(history)))


def _count_non_finite(history: History) -> Iterator[str]:
    """Yield how many rows of each loss are not finite, and where the first one is."""
    for name in LOSS_METRICS:
        steps, values = history[name]
        is_bad = ~np.isfinite(values)
        if is_bad.any():
            first, count = history.describe_step(steps[np.argmax(is_bad)]), int(is_bad.sum())
            yield f"{name}: {count} of {len(values)} rows {'is' if count == 1 else 'are'} not finite, first at {first}"


def _list_values(history: History, name: str) -> str:
    values = drop_non_finite(history[name]).values
    listed = " to ".join(f"{value:.4g}" for value in values) or "not finite"
    return f"{len(values)} finite point{'s' * (len(values) != 1)} ({listed})"


def _describe_flat_part(history: History, thresholds: Thresholds) -> str:
    """Return the slope of the last half of the run or more, if it may have stood still there; empty if it has not."""
    windows = [fit_trend_window(history, thresholds, doublings=doublings) for doublings in (1.0, 2.0)]
    for window in filter(None, windows):
        bound = thresholds.plateau_fall * loss_scale(history[window.metric], window.trend.end)
        is_at_end = window.last == drop_non_finite(history[window.metric]).steps[-1]
        if not is_at_end or window.trend.interval(thresholds.confidence)[1] < -bound:
            return ""
        if window.trend.slope >= -FLAT_FACTOR * bound:
            return _describe_window(history, window, thresholds)
    return ""


def _describe_known_guess(history: History) -> str:
    """Return that the few rows of a loss are all at that of a uniform guess, if they are."""
    losses = drop_non_finite(history["train/loss"])
    count = find_known_guess(losses.values) if len(losses) > 1 else None
    if count is None:
        return ""
    part = history.describe_part(losses.steps[0], losses.steps[-1])
    return f". train/loss stays at {losses.values[-1]:.4g} from {part}, ln of {count:,}: that of a uniform guess"


def _find_missing(
    history: History, thresholds: Thresholds, diagnoses: Sequence[Diagnosis]
) -> Iterator[tuple[str, str]]:
    """Yield the rules that could not have found anything, each with the reason."""
    kinds = {diagnosis.kind for diagnosis in diagnoses}
    if "divergence" in kinds:  # of a run that has diverged, only what may have been the cause matters
        if not knows_lr(history):
            yield "warm-up and schedule", "no LR recorded"
        return
    val, train = drop_non_finite(history["val/loss"]), drop_non_finite(history["train/loss"])
    needed = MIN_ROWS_BEFORE + MIN_ROWS_AFTER
    if len(train) < needed and len(val) < thresholds.min_points and not kinds & {*LEARNING_KINDS, "spike"}:
        yield "divergence", f"{len(train)} of {needed} training rows"
    if not kinds & set(LEARNING_KINDS) and (reason := _describe_unclear_progress(history, thresholds)):
        yield "never learnt", reason
    if not kinds & set(LEARNING_KINDS) and (reason := _describe_unclear_plateau(history, thresholds)):
        yield "plateau", reason
    if fit_trend_window(history, thresholds) is None and not kinds & set(LEARNING_KINDS):
        yield "underfitting", _describe_short_window(history, thresholds)
    needed = MIN_OVERFIT_EVALS if len(train) >= MIN_FALL_ROWS else round(thresholds.min_points)
    if len(val) < needed and "overfitting" not in kinds:
        yield "overfitting", f"{len(val)} of {needed} evaluations"
    if not knows_lr(history) and not kinds & set(SCHEDULE_KINDS):
        yield "warm-up and schedule", "no LR recorded, so a change of slope may be the schedule's"
    if not len(history["train/grad_norm"]) and not len(history["train/clip_fraction"]):
        yield "clipping", "no gradient norm recorded"


def _describe_unclear_progress(history: History, thresholds: Thresholds) -> str:
    """Return why it is unclear whether the loss has fallen since the start; empty if it surely has."""
    val, train = drop_non_finite(history["val/loss"]), drop_non_finite(history["train/loss"])
    name, losses = select_loss(history, thresholds)
    if completed_fraction(history) < 0.5:
        return "less than half of the run is done"
    if not has_enough_points(history, thresholds):
        return f"{len(val)} of {thresholds.min_points:g} evaluations and {len(train)} of {MIN_TRAIN_ROWS} training rows"
    if get_initial_loss(losses) is None:
        return "the start of the run is not recorded"
    if has_surely_fallen(losses, thresholds):
        return ""
    low, high = fit_whole_change(losses.values, thresholds)[1]
    return f"{name} changed by {low:+.2g} to {high:+.2g} since the start, from {losses.values[0]:.4g}"


def _describe_unclear_plateau(history: History, thresholds: Thresholds) -> str:
    """Return why a plateau can neither be found nor excluded; empty if it can."""
    if completed_fraction(history) < thresholds.min_progress:
        return f"less than {thresholds.min_progress:.0%} of the run is done"
    flattest = find_flattest_window(history, thresholds, thresholds.plateau_fall)
    if flattest is None:
        return _describe_short_window(history, thresholds)
    confidence, window = flattest
    is_decided = confidence <= 1 - thresholds.confidence or (
        confidence >= thresholds.confidence and window.trend.slope <= 0
    )
    if is_decided:
        return ""
    return _describe_window(history, window, thresholds)


def _describe_window(history: History, window: TrendWindow, thresholds: Thresholds) -> str:
    bound = thresholds.plateau_fall * loss_scale(history[window.metric], window.trend.end)
    low, high = window.trend.interval(thresholds.confidence)
    place = history.describe_part(window.first, window.last)
    return (
        f"the slope of {window.metric} from {place} is between {low:+.2g} and {high:+.2g} "
        f"per doubling of {window.unit}; above {-bound:.2g} it is a plateau"
    )


def _describe_short_window(history: History, thresholds: Thresholds) -> str:
    """Return how many points the last doubling of tokens has where the LR was near its peak."""
    begin, end = find_peak_lr_steps(history, thresholds)
    first = max(begin, end // 2, 1)
    counts = []
    for name, kind, needed in (
        ("val/loss", "evaluations", f"{thresholds.min_points:g}"), ("train/loss", "training rows", MIN_TRAIN_ROWS)
    ):  # fmt: skip
        steps = drop_non_finite(history[name]).steps
        counts.append(f"{int(((steps >= first) & (steps <= end)).sum())} of {needed} {kind}")
    place = "" if end >= history.last_step else " while the LR was near its peak"
    return f"{' and '.join(counts)} in the last doubling of steps{place}"


class FittedSlope(NamedTuple):
    """The slope of the recent part of a loss, its direction, and both in words."""

    metric: str
    text: str
    direction: str
    recent: Series
    x: np.ndarray | None  # log2 of tokens or steps; None if the part is far less than a doubling
    trend: Trend


def _fit_slope(history: History, name: str, thresholds: Thresholds) -> FittedSlope | None:
    """Return the slope of a loss with its interval; None with too few points.

    It is that of the last doubling of tokens, or of a longer part if that has too few points. If the part is far less
    than a doubling, as at the end of a long run, it is the change over the part; if most points are at step 0, over the
    whole record.
    """
    series = drop_non_finite(history[name])
    if len(series) < MIN_SLOPE_POINTS:
        return None
    tokens = history.tokens_at(series.steps)
    amounts, unit = (series.steps.astype(float), history.facts.steps_unit) if tokens is None else (tokens, "tokens")
    inside = _select_recent(
        amounts, max(MIN_SLOPE_POINTS, thresholds.min_points if name == "val/loss" else MIN_TRAIN_ROWS)
    )
    is_whole = inside.sum() < MIN_SLOPE_POINTS
    inside = np.ones(len(series), bool) if is_whole else inside
    recent = Series(series.steps[inside], series.values[inside])
    is_short = is_whole or math.log2(amounts[inside][-1] / amounts[inside][0]) < MIN_DOUBLINGS
    if is_short:
        x, per = np.linspace(0, 1, len(recent)), "over the whole record" if inside.all() else "over this part"
    else:
        x, per = np.log2(amounts[inside]), f"per doubling of {unit}"
    trend = fit_trend(x, recent.values)
    low, high = trend.interval(thresholds.confidence)
    scale = loss_scale(history[name], trend.end)
    direction = _name_direction(low, high, thresholds.plateau_fall * scale)
    part = history.describe_part(recent.steps[0], recent.steps[-1])
    text = (
        f"{_format(trend.slope, scale)} {per} ({thresholds.confidence:.0%} interval "
        f"{_format(low, scale)} to {_format(high, scale)}) from {part}, {len(recent)} of {len(series)} points"
    )
    return FittedSlope(name, text, direction, recent, None if is_short else x, trend)


def _project_loss(history: History, slope: FittedSlope) -> str:
    """Return the loss at twice the steps if it goes on falling like this, and why it may not; empty if it cannot.

    A loss that was never negative is not projected below 0.
    """
    values, trend = slope.recent.values, slope.trend
    if slope.x is None:
        return ""
    if values.min() > 0 and -trend.slope > SMALL_FALL * trend.end:
        logs = fit_trend(slope.x, np.log(values))
        later = math.exp(logs.end + logs.slope)
    else:
        later = trend.end + trend.slope
    if later <= 0 <= drop_non_finite(history[slope.metric]).values.min():
        return ""
    text = f", at this rate {later:.4g} by {history.describe_step(2 * int(slope.recent.steps[-1]))}"
    lr = history["train/lr"].values
    if not knows_lr(history):
        return f"{text}, unless the LR has decayed"
    is_decayed = lr[-1] < DECAYED_FRACTION * lr.max()
    return f"{text}, though the fall at the end of a decaying LR does not go on" if is_decayed else text


def _select_recent(amounts: np.ndarray, enough: float) -> np.ndarray:
    """Return a mask of the last doubling, or of the last points if it has fewer than `enough`."""
    positive = amounts > 0
    recent = positive & (amounts >= amounts[-1] / 2)
    if recent.sum() < enough:
        recent = positive & (np.arange(len(amounts)) >= len(amounts) - enough)
    return recent if len(np.unique(amounts[recent])) > 1 else np.zeros(len(amounts), bool)


def _name_direction(low: float, high: float, bound: float) -> str:
    if -bound <= low and high <= bound:
        return "flat"
    if high < 0 or low > 0:
        return "falling" if high < 0 else "rising"
    return "no certain direction"


def _format(value: float, scale: float) -> str:
    return "0" if abs(value) <= NEGLIGIBLE_SLOPE * scale else f"{value:+.2g}"


def _count_points(history: History) -> str:
    """Return how many points are finite."""
    evaluations, rows = (len(drop_non_finite(history[name])) for name in ("val/loss", "train/loss"))
    finite = "finite " * any(_count_non_finite(history))
    return (
        f"{evaluations} {finite}evaluation{'s' * (evaluations != 1)} and {rows} {finite}training row{'s' * (rows != 1)}"
    )


def _describe_need(thresholds: Thresholds) -> str:
    return f"{thresholds.min_points:g} evaluations or {MIN_TRAIN_ROWS} training rows are needed"


def _join_reasons(missing: dict[str, str]) -> Iterator[str]:
    """Yield rules with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for rule, reason in missing.items():
        by_reason.setdefault(reason, []).append(rule)
    yield from (f"{' and '.join(rules)} ({reason})" for reason, rules in by_reason.items())
