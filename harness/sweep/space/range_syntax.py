"""Parse Hydra's sweep syntax into Optuna distributions, and reject ranges that cannot be searched."""

import math
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import CategoricalDistribution

from harness.config.errors import RANGE_FORMS, explain_error
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
    if isinstance(value, IntervalSweep | RangeSweep) and (problem := _find_bounds_error(override, value)):
        return problem
    if isinstance(value, ChoiceSweep | RangeSweep) and value.shuffle:
        return "every worker would shuffle the list differently; remove shuffle, the sampler chooses the order"
    try:
        distribution = parse_distribution(override)
    except ValueError:
        return "the range is empty; write range(low,high) or range(low,high,step), which exclude high"
    choices: Sequence[Any] = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    if distribution.single():
        only = choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low
        return f"there is only one value, so nothing to search; write {override.get_key_element()}={only}"
    if any(choice != choice for choice in choices):
        return "nan equals no value, so a trial with it is not found again; leave it out, or write 'nan' for a text"
    if len({repr(choice) for choice in choices}) < len(choices):
        return "a value is listed twice; remove one"
    return ""


def _find_bounds_error(override: Override, value: IntervalSweep | RangeSweep) -> str:
    start, end = (value.start, value.end) if isinstance(value, IntervalSweep) else (value.start, value.stop)
    if start is None or end is None:  # range() takes one argument, or more
        return ""
    low, high = float(start), float(end)
    if not (math.isfinite(low) and math.isfinite(high)):
        return "both bounds must be finite"
    if low > high and (isinstance(value, IntervalSweep) or value.step > 0):
        return f"the lower bound is above the upper bound; write '{swap_bounds(str(override.input_line))}'"
    if "log" in value.tags and low <= 0:
        return f"a logarithmic range must start above 0, not at {start}"
    return ""


def swap_bounds(text: str) -> str:
    """Return a range as it was typed, with its first two numbers swapped."""
    number, name = r"(-?[\d.][\w.+-]*)", r"(?:\w+=)?"
    return re.sub(rf"\(({name}){number}(,\s*{name}){number}", r"(\g<1>\g<4>\g<3>\g<2>", text, count=1)


def explain_number_error(message: str) -> str:
    """Return the message about a setting that is not a number; in a sweep, a range may have been meant."""
    wrong = re.fullmatch(r"([\w.]+): ('.*') is not a (whole )?number", message)
    if not wrong:
        return message
    bounds = re.fullmatch(r"'\W*([\d.]+?(?:e[+-]?\d+)?)\W+([\d.]+?(?:e[+-]?\d+)?)\W*'", wrong[2])
    form = "int(log({},{}))" if wrong[3] else "log({},{})"
    example = f"for a range write '{wrong[1]}={form.format(*bounds.groups())}'; " if bounds else ""
    return f"{message}; {example}{RANGE_FORMS}"
