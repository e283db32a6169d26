"""The metric of a program among the values that it printed or saved: by its name, or the validation loss."""

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.importers.metric_aliases import BARE_SPLIT_TIER, name_meaning, normalize_name
from harness.importers.named_values.curves import LAST_LINE, NamedCurve, NamedCurves
from harness.importers.named_values.settings import METRIC_WORDS
from harness.importers.named_values.value_names import match_names, plain_words, show_name, squash_name

MIN_CURVE = 3  # values, beside which one value alone is that of a line at the end
MAX_SHOWN = 8
"""Names that an error lists."""
MIN_LIKENESS = 0.6  # of two names, one of which may be meant


class MetricError(ValueError):
    """The metric was not found, or could be several; the message lists what there is and how to name one."""


@dataclass(frozen=True)
class FoundMetric:
    """A curve that was found, and a note about it if it was not named."""

    curve: NamedCurve
    note: str = ""

    @property
    def name(self) -> str:
        return show_name(self.curve.name.full)


def find_metric(curves: NamedCurves, metric: str | None, source: str) -> FoundMetric:
    """Return the curve of `metric`; if that is None, that of the validation loss, else of the only training loss.

    Raises:
        MetricError: If there is none, or several that may be meant.
    """
    return find_named_metric(curves, metric, source) if metric is not None else _find_default(curves, source)


def find_named_metric(curves: NamedCurves, metric: str, source: str) -> FoundMetric:
    """Return the curve that `metric` names.

    Raises:
        MetricError: If there is none, or several that may be meant.
    """
    found = _match_curves([curve for curve in curves if not curve.is_setting], metric)
    found = found or _match_curves([curve for curve in curves if curve.is_setting], metric)
    if not found:
        meaning = name_meaning(metric)
        wanted = meaning.metric if meaning.tier == 0 or (meaning.metric or "").endswith(("lr", "grad_norm")) else None
        found = _most_direct([curve for curve in curves if wanted and curve.name.metric == wanted])
    if not found and curves.last_bare is not None and squash_name(metric) == squash_name(LAST_LINE):
        found = [curves.make_bare_curve()]
    if len(found) == 1:
        return FoundMetric(found[0])
    if found:
        raise MetricError(f"--metric: {metric!r} may be {_list_choices(found)} in {source}; give one of these names")
    raise MetricError(f"--metric: no metric {metric!r} in {source}; {_describe_found(curves, metric)}")


def _match_curves(curves: Sequence[NamedCurve], metric: str) -> list[NamedCurve]:
    by_key = {curve.name.key: curve for curve in curves}
    return [by_key[name.key] for name in match_names(metric, [curve.name for curve in curves])]


def has_name(curves: NamedCurves, metric: str) -> bool:
    """Return whether any curve may be what `metric` names."""
    return bool(match_names(metric, [curve.name for curve in curves]))


def find_validation_loss(curves: NamedCurves) -> NamedCurve | None:
    """Return the curve of the validation loss, or else of the validation perplexity; None if there is none.

    Raises:
        MetricError: If several say it equally directly.
    """
    for metric in ("val/loss", "val/ppl"):
        found = _most_direct([curve for curve in curves if curve.name.metric == metric])
        if len(found) > 1:
            raise MetricError(f"--metric: the validation loss may be {_list_choices(found)}; name one of these")
        if found:
            return found[0]
    return None


def _find_default(curves: NamedCurves, source: str) -> FoundMetric:
    curve = find_validation_loss(curves)
    if curve is not None:
        return FoundMetric(curve)
    if curves.last_bare is not None:
        bare = curves.make_bare_curve()
        return FoundMetric(bare, "the objective is the number in the last line of the output, as no metric was named")
    losses = [curve for curve in curves if curve.name.metric == "train/loss" and not curve.is_summary]
    losses = losses or [curve for curve in curves if curve.name.metric == "train/loss"]
    found = _most_direct(losses)
    if len(found) == 1:
        name = show_name(found[0].name.full)
        return FoundMetric(found[0], f"the objective is {name!r}, a training loss: no validation loss was found")
    if found:
        raise MetricError(f"--metric: no validation loss in {source}; choose one of {_list_choices(found)}")
    raise MetricError(f"--metric: no loss in {source}; {_describe_found(curves, None)}")


def _most_direct(curves: Sequence[NamedCurve]) -> list[NamedCurve]:
    """Return the curves whose names say a metric most directly, one of those that are equal.

    A name with hardly any values, as in a line at the end, counts less than one with a curve.
    """
    curves = [curve for curve in curves if not _counts(curve) and not curve.is_setting]
    most = max((len(curve) for curve in curves), default=0)
    enough = [curve for curve in curves if len(curve) > 1 or most < MIN_CURVE]
    lowest = min((_rank_name(curve) for curve in enough), default=(0, 0))
    found = [curve for curve in enough if _rank_name(curve) == lowest]
    different: list[NamedCurve] = []
    for curve in found:
        if not any(_is_same(curve, other) for other in different):
            different.append(curve)
    return different


def _rank_name(curve: NamedCurve) -> tuple[int, int]:
    """Return how directly a name says a metric: with what is measured first, then with how many other words."""
    meaning = curve.name.meaning
    return meaning.tier, int(name_meaning(curve.name.full).metric != meaning.metric)


def _counts(curve: NamedCurve) -> bool:
    """Return whether a curve is named by a split alone and has whole numbers, as in `test: 40` examples."""
    return curve.name.meaning.tier == BARE_SPLIT_TIER and all(value % 1 == 0 for value in curve.values)


def _is_same(curve: NamedCurve, other: NamedCurve) -> bool:
    """Return whether two names have the same values."""
    return len(curve) == len(other) and all(
        first == second or (math.isnan(first) and math.isnan(second))
        for first, second in zip(curve.values, other.values, strict=True)
    )


def _list_choices(curves: Iterable[NamedCurve]) -> str:
    curves = list(curves)
    has_splits = any(curve.name.context for curve in curves)
    names = [show_name(curve.name.full) for curve in curves]
    if has_splits:
        names = [
            name if curve.name.context or plain_words(name) & {"train", "val", "test"} else f"train {name}"
            for name, curve in zip(names, curves, strict=True)
        ]
    names = [f"'{name}'" for name in names]
    shown = names[:MAX_SHOWN]
    return f"{', '.join(shown[:-1])} or {shown[-1]}" if len(shown) > 1 else shown[0]


def _describe_found(curves: NamedCurves, metric: str | None) -> str:
    """Return which values there are, those that look like metrics first, and the option that names the nearest."""
    ranked = sorted(curves, key=lambda curve: (curve.is_setting, not looks_like_metric(curve), -len(curve)))
    if not ranked:
        if curves.last_bare is not None:
            return f"its last line is the number {curves.last_bare:g}: leave out --metric to use it"
        return "it has no named numbers; print a line such as 'val_loss: 0.31', or name a file with --read"
    shown = [_describe_curve(curve, at == 0) for at, curve in enumerate(ranked[:MAX_SHOWN])]
    more = f" and {len(ranked) - MAX_SHOWN} more" if len(ranked) > MAX_SHOWN else ""
    nearest = _find_nearest(ranked, metric)
    remedy = f"use --metric {_quote(show_name(nearest.name.full))}" if nearest else "name one with --metric"
    return f"found {', '.join(shown)}{more}: {remedy}"


def _describe_curve(curve: NamedCurve, is_first: bool) -> str:
    values = (" value" if len(curve) == 1 else " values") if is_first else ""
    return f"{show_name(curve.name.full)} ({len(curve)}{values})"


def _quote(name: str) -> str:
    return f"'{name}'" if " " in name or "(" in name else name


def looks_like_metric(curve: NamedCurve) -> bool:
    """Return whether a word of the name is one that metrics have, such as `f1` or `reward`."""
    return bool(set(normalize_name(curve.name.full).split("_")) & METRIC_WORDS)


def _find_nearest(ranked: Sequence[NamedCurve], metric: str | None) -> NamedCurve | None:
    """Return the curve whose name is most like that of `metric`; None if none is like it."""
    if metric is None:
        return ranked[0] if len(ranked) == 1 and looks_like_metric(ranked[0]) else None
    words = plain_words(metric)

    def likeness(curve: NamedCurve) -> float:
        other = plain_words(curve.name.full)
        shared = 2 * len(words & other) / (len(words) + len(other))
        return max(shared, difflib.SequenceMatcher(None, " ".join(sorted(words)), " ".join(sorted(other))).ratio())

    best = max(ranked, key=lambda curve: (likeness(curve), "val" in plain_words(curve.name.full)))
    return best if likeness(best) >= MIN_LIKENESS else None
