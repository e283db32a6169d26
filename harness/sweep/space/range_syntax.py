"""Parse Hydra's sweep syntax into Optuna distributions, and reject ranges that cannot be searched."""

import math
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import CategoricalDistribution

from harness.config.errors import explain_error
from harness.core.errors import ConfigError
from harness.sweep.hydra_internals import Range, parse_distribution, split_overrides


def parse_ranges(overrides: Sequence[str]) -> tuple[dict[str, Range], dict[str, str], list[str]]:
    """Split overrides into ranges by key, fixed values by key, and deletions.

    Raises:
        ConfigError: If an override cannot be parsed, or its range holds nothing to search.
    """
    for text in overrides:
        try:
            override = OverridesParser.create().parse_overrides([text])[0]  # unlike parse_override, names it
        except HydraException as error:
            raise ConfigError(explain_error(error, [text])) from error
        problem = _find_range_error(override) if override.is_sweep_override() else ""
        if problem:
            raise ConfigError(f"{text}: {problem}")
    return split_overrides(overrides)


def _find_range_error(override: Override) -> str:
    """Return what is wrong with a range and what to write instead, or an empty string."""
    value = override.value()
    if isinstance(value, Glob):
        return "glob is not supported in a sweep; list the options, such as optimizer=adamw,sgd"
    if isinstance(value, IntervalSweep) and (problem := _find_interval_error(value)):
        return problem
    if isinstance(value, ChoiceSweep | RangeSweep) and value.shuffle:
        return "every worker would shuffle the list differently; remove shuffle, the sampler chooses the order"
    try:
        distribution = parse_distribution(override)
    except ValueError:
        return "the range is empty; write range(low,high) or range(low,high,step), which exclude high"
    choices = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    if distribution.single():
        only = choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low
        return f"there is only one value, so nothing to search; write {override.get_key_element()}={only}"
    if len({repr(choice) for choice in choices}) < len(choices):
        return "a value is listed twice; remove one"
    return ""


def _find_interval_error(value: IntervalSweep) -> str:
    assert value.start is not None  # interval() takes two arguments
    assert value.end is not None
    low, high = float(value.start), float(value.end)
    if not (math.isfinite(low) and math.isfinite(high)):
        return "both bounds must be finite"
    if low > high:
        return f"the lower bound is above the upper bound; write interval({value.end},{value.start})"
    if "log" in value.tags and low <= 0:
        return f"a logarithmic range must start above 0, not at {value.start}"
    return ""
