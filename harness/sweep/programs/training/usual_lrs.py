"""Compare the LRs that a sweep tries with those that suit its optimizers."""

import math
from functools import cache

import yaml
from optuna.distributions import CategoricalDistribution

from harness.config.alternatives import read_given_settings
from harness.core.paths import config_dir
from harness.sweep.programs.training.config_space import ConfigSpace
from harness.sweep.space.range_syntax import parse_ranges
from harness.sweep.space.search_space import Range, format_range, range_ends

USUAL_RANGES = "sweeps/common/optimizer_lr.yaml"
GROUP, KEY = "optimizer", "optimizer.lr"
MAX_UNFIT_SHARE = 0.5  # of the LRs, on a log scale, within the usual range: with more, the range suits the optimizer


def describe_unusual_lrs(space: ConfigSpace) -> list[str]:
    """Return a note if one range of the LR is for optimizers whose usual LRs lie elsewhere."""
    options = range_ends(space.ranges[GROUP]) if GROUP in space.ranges else [space.group_options.get(GROUP, "")]
    given = read_given_settings(space.fixed).get(KEY)
    unfit: dict[str, list[str]] = {}
    for option in options:
        usual = read_usual_ranges().get(str(option))
        tried = space.active_ranges({GROUP: option}).get(KEY)
        if tried is None and isinstance(given, int | float) and len(options) > 1:
            tried = CategoricalDistribution([given])
        if tried and usual and _share_within(tried, usual) <= MAX_UNFIT_SHARE:
            unfit.setdefault(format_range(tried), []).append(f"{option} ({usual[0]:g} to {usual[1]:g})")
    remedy = "give a range that suits, or one for each optimizer with sweep.conditional"
    return [
        f"{KEY}={text}: at most half of it is within the usual LRs of {', '.join(names)}; {remedy}"
        for text, names in unfit.items()
    ]


@cache
def read_usual_ranges() -> dict[str, tuple[float, float]]:
    """Return the lowest and highest usual LR of each option of the optimizer."""
    content = yaml.safe_load((config_dir() / USUAL_RANGES).read_text())
    texts = {name.partition("=")[2]: str(keys[KEY]) for name, keys in content["sweep"]["conditional"].items()}
    ranges = {option: parse_ranges([f"{KEY}={text}"])[0][KEY] for option, text in texts.items()}
    return {option: (range_ends(dist)[0], range_ends(dist)[-1]) for option, dist in ranges.items()}


def _share_within(tried: Range, usual: tuple[float, float]) -> float:
    """Return the share of the LRs of a range that lie in the usual one; 1 if they are not numbers above 0."""
    ends = range_ends(tried)
    if not all(isinstance(end, int | float) and end > 0 for end in ends):
        return 1.0
    if isinstance(tried, CategoricalDistribution) or ends[0] == ends[-1]:
        return sum(usual[0] <= end <= usual[1] for end in ends) / len(ends)
    low, high = (math.log(end) for end in ends)
    inside = min(high, math.log(usual[1])) - max(low, math.log(usual[0]))
    return max(0.0, inside) / (high - low)
