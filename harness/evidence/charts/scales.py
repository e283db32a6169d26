"""Scales of chart axes: where a value lies, and which values are labeled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.core.formatting import format_count, format_lr

LARGEST = 1e150  # larger values are drawn as this one, so that spans do not overflow
SMALLEST = 1 / LARGEST  # likewise on logarithmic axes
LOG_RATIO = 20.0
"""Ratio of the largest to the smallest positive value from which an axis is logarithmic."""
FEW_DECADES, MAX_DECADES = 2, 8  # labeled between, and labeled at most
MIN_TICKS = 3
MANY, HUGE, SMALL = 10_000, 1e15, 0.001  # where the notation of labels changes
EQUAL = 1e-12  # relative difference of values that are drawn as equal
MARGIN = 0.05  # of the axis beyond the outermost points
FAR_OUT = 3.0  # times the distance of the quartiles, after Tukey (1977): Exploratory Data Analysis


@dataclass(frozen=True)
class NumberScale:
    """A linear or logarithmic axis from `low` to `high`; `at` are the only values to label, if given."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    at: tuple[float, ...] = ()
    n_ticks: int = 5

    def place(self, value: float) -> float:
        low, high, value = self.low, self.high, min(max(value, -LARGEST), LARGEST)
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, SMALLEST))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def choose_ticks(self) -> list[tuple[float, str]]:
        values = [value for value in self._list_ticks() if self.low <= value <= self.high]
        texts = [label_number(value) for value in values] if self.is_log or self.at else label_steps(values)
        return [(self.place(value), text.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else text)
                for value, text in zip(values, texts, strict=True)]  # fmt: skip

    def _list_ticks(self) -> Sequence[float]:
        if self.at:
            return self.at
        if self.is_log:
            subs = (1, 2, 5) if math.log10(self.high / self.low) < FEW_DECADES else (1,)
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            powers = range(first, last + 1, max(1, round((last - first) / MAX_DECADES)))
            ticks = [sub * 10.0**power for power in powers for sub in subs]
            if sum(self.low <= tick <= self.high for tick in ticks) >= 2:
                return ticks
        for count in range(self.n_ticks, self.n_ticks + 4):
            ticks = choose_ticks(self.low, self.high, count)
            if sum(self.low <= tick <= self.high for tick in ticks) >= MIN_TICKS:
                break
        return ticks


@dataclass(frozen=True)
class CategoryScale:
    """An axis with one place for each of `names`; values are indices."""

    names: tuple[str, ...]
    start: float
    end: float

    @property
    def step(self) -> float:
        return (self.end - self.start) / len(self.names)

    def place(self, value: float) -> float:
        return self.start + self.step * (value + 0.5)

    def choose_ticks(self) -> list[tuple[float, str]]:
        return [(self.place(index), name) for index, name in enumerate(self.names)]


Scale = NumberScale | CategoryScale


@dataclass(frozen=True)
class AxisRange:
    """The range of values that an axis shows; `n_above` and `n_below` values lie outside of it."""

    low: float
    high: float
    n_above: int = 0
    n_below: int = 0
    is_log: bool = False


def choose_range(values: Sequence[float], anchors: Sequence[float] = (), *, may_be_log: bool = True) -> AxisRange:
    """Return a range that shows all anchors, and the values but those that would squeeze the others together."""
    finite = np.clip([value for value in (*values, *anchors) if math.isfinite(value)], -LARGEST, LARGEST)
    if not len(finite):
        return AxisRange(0.0, 1.0)
    is_log = bool(may_be_log and finite.min() > 0 and finite.max() > LOG_RATIO * finite.min())
    scaled = np.log10(np.maximum(finite, SMALLEST)) if is_log else finite
    first, third = np.quantile(scaled, (0.25, 0.75))
    fence = FAR_OUT * (third - first)
    kept = scaled[(scaled >= first - fence) & (scaled <= third + fence)]
    fixed = scaled[len(finite) - sum(map(math.isfinite, anchors)) :].tolist()
    low, high = float(min(kept.min(), *fixed, math.inf)), float(max(kept.max(), *fixed, -math.inf))
    n_above, n_below = int((scaled > high).sum()), int((scaled < low).sum())
    is_still_log = is_log and 10**(high - low) > LOG_RATIO  # fmt: skip
    if is_log and not is_still_log:
        low, high, is_log = 10**low, 10**high, False
    pad, size = MARGIN * (high - low), max(abs(low), abs(high))
    if high - low <= EQUAL * size or size < SMALLEST:
        pad = 0.1 if is_log else MARGIN * size if size >= SMALLEST else 1.0
    low, high = low - pad, high + pad
    return AxisRange(10**low, 10**high, n_above, n_below, True) if is_log else AxisRange(low, high, n_above, n_below)


def choose_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from at or below `low` to at or above `high`."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * count >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round_to(step * index, step) for index in range(first, max(last, first + 1) + 1)]


def round_to(value: float, step: float) -> float:
    """Return a value without the error of its multiplication by a step, such as 0.30000000000000004."""
    digits = 2 - math.floor(math.log10(step))
    return round(value, digits) if digits < 300 else value


def label_steps(values: Sequence[float]) -> list[str]:
    """Return labels of equally spaced values, with no more digits than tell them apart."""
    largest = max(map(abs, values), default=0.0)
    gap = min((abs(second - first) for first, second in pairwise(values)), default=largest)
    if largest >= MANY:
        texts = [label_number(value) for value in values]
        return (
            texts if len(set(texts)) == len(set(values)) else [f"{value:,.{_count_decimals(gap)}f}" for value in values]
        )
    if 0 < largest < SMALL:
        return _label_small(values)
    return [f"{value:.{_count_decimals(gap)}f}" for value in values]


def _label_small(values: Sequence[float]) -> list[str]:
    for digits in range(3, 18):
        texts = ["0" if value == 0 else f"{value:.{digits}g}".replace("e-0", "e-") for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def label_number(value: float) -> str:
    """Return a short label of a single value, such as "3e-4", "0.1" or "12k"."""
    if value == 0 or abs(value) >= HUGE:
        return f"{value:.3g}".replace("e+", "e")
    if abs(value) < 10 * SMALL:
        return format_lr(value) if math.isclose(float(format_lr(value)), value) else f"{value:.3g}".replace("e-0", "e-")
    return format_count(value) if abs(value) >= MANY else f"{value:.4g}"


def _count_decimals(gap: float) -> int:
    """Return the decimals that tell values with this distance apart; a second one for distances such as 0.25."""
    if not gap:
        return 0
    power = math.floor(math.log10(gap) + 1e-9)
    return min(15, max(0, -power + (not math.isclose(gap / 10.0**power, round(gap / 10.0**power)))))


def is_spread(values: Sequence[float]) -> bool:
    """Return whether numbers need a logarithmic axis: positive, of several magnitudes, and not skewed on it."""
    if not values or min(values) <= 0 or max(values) <= LOG_RATIO * min(values):
        return False
    return abs(_measure_skew(np.log(values))) <= abs(_measure_skew(np.asarray(values)))


def _measure_skew(values: np.ndarray) -> float:
    """Return the skewness by quartiles, after Bowley."""
    first, second, third = np.quantile(values, (0.25, 0.5, 0.75))
    return float((third + first - 2 * second) / (third - first)) if third > first else 0.0
