"""Text shared by tables, figures and result files: overrides, labels and values."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from harness.config.compose import flatten_values
from harness.core.component_keys import rename_component_keys
from harness.core.formatting import format_number

COMPONENT_GROUPS = {"sampler": "hydra/sweeper/sampler", "pruner": "pruner"}
"""Settings of a sweep that are components, and the config group of each."""
MIN_WITHOUT_DECIMALS = 10_000
"""Values from here on, such as token counts, are shown without decimals."""


def format_override(key: str, value: Any) -> str:
    """Return the override that sets `key` to `value`, quoted where Hydra would read the text as something else."""
    text = "null" if value is None else str(value)
    if isinstance(value, str):
        try:
            is_plain = not OverridesParser.create().parse_override(f"{key}={value}").is_sweep_override()
        except HydraException:
            is_plain = False
        text = value if is_plain else QuotedString(value, Quote.single).with_quotes()
    return f"{key}={text}"


def format_measure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= MIN_WITHOUT_DECIMALS else format_number(value)


def format_objectives(labels: Sequence[str], values: Sequence[float]) -> str:
    """Return labels and values in one line; a running trial may have fewer values than labels."""
    return " · ".join(f"{label} {format_measure(value)}" for label, value in zip(labels, values, strict=False))


def format_param(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_status_counts(counts: Mapping[Any, int]) -> str:
    """Return the numbers of trials by status in one line, zeros left out."""
    return " · ".join(f"{count} {status}" for status, count in counts.items() if count)


def format_sweep_params(settings: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a sweep as parameters for MLflow: one text each, without those that are not set.

    `choices` are the options of config groups; those of sampler and pruner name them.
    """
    flat = {key: value for key, value in flatten_values(dict(settings)).items() if value not in (None, [], {})}
    texts = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in flat.items()}
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in texts.items()}
    named = {key: choices[group] for key, group in COMPONENT_GROUPS.items() if group in choices}
    return {**rename_component_keys(texts), **named}
