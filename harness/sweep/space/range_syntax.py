"""Hydra's sweep syntax, read into Optuna's ranges; what it would make of a slip is refused by name."""

import math
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from hydra_plugins.hydra_optuna_sweeper._impl import (
    create_optuna_distribution_from_override,
    create_params_from_overrides,
)
from optuna.distributions import BaseDistribution, CategoricalDistribution

from harness.config.errors import ConfigError


def parse_ranges(texts: Sequence[str]) -> tuple[dict[str, BaseDistribution], dict[str, str], list[str]]:
    """Ranges by key, fixed values by key, and what is deleted; ConfigError for a range that holds nothing to search."""
    for text in texts:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise ConfigError(f"{text}: {str(error).strip().splitlines()[-1]}") from error
        slip = _find_range_error(override) if override.is_sweep_override() else ""
        if slip:
            raise ConfigError(f"{text}: {slip}")
    return create_params_from_overrides(list(texts))


def _find_range_error(override: Override) -> str:
    """What is wrong with a range, and what to write instead; nothing where it is right."""
    value = override.value()
    if isinstance(value, Glob):
        return "glob is not searched; list the options, such as optimizer=adamw,sgd"
    if isinstance(value, IntervalSweep) and (slip := _find_interval_error(value)):
        return slip
    if isinstance(value, ChoiceSweep | RangeSweep) and value.shuffle:
        return "a shuffled list is another one in every worker; leave it as it is, the sampler chooses"
    try:
        found = create_optuna_distribution_from_override(override)
    except ValueError:
        return "there is no value in it; write range(low,high) or range(low,high,step), high itself is left out"
    if found.single():
        only = found.choices[0] if isinstance(found, CategoricalDistribution) else found.low
        return f"it has one value, and nothing to search; write {override.get_key_element()}={only}"
    if isinstance(found, CategoricalDistribution) and len({repr(one) for one in found.choices}) < len(found.choices):
        return "it lists a value twice"
    return ""


def _find_interval_error(value: IntervalSweep) -> str:
    low, high = float(value.start), float(value.end)
    if not (math.isfinite(low) and math.isfinite(high)):
        return "both ends must be finite"
    if low > high:
        return f"the ends are the wrong way round; write interval({value.end},{value.start})"
    if "log" in value.tags and low <= 0:
        return f"a logarithmic range starts above 0, and this one at {value.start}"
    return ""
