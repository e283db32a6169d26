"""Private functions of Hydra's Optuna sweeper that the harness uses. tests/sweep/test_internals.py checks them."""

from collections.abc import Sequence

from hydra.core.override_parser.types import Override
from hydra_plugins.hydra_optuna_sweeper import _impl
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

Range = CategoricalDistribution | FloatDistribution | IntDistribution  # all that Hydra's sweep syntax can express


def parse_distribution(override: Override) -> Range:
    """Return the Optuna distribution of a sweep override.

    Raises:
        ValueError: If the range is empty.
    """
    return _impl.create_optuna_distribution_from_override(override)


def split_overrides(overrides: Sequence[str]) -> tuple[dict[str, Range], dict[str, str], list[str]]:
    """Split overrides into distributions by key, fixed values by key, and deletions (`~key`)."""
    return _impl.create_params_from_overrides(list(overrides))  # type: ignore[return-value]  # annotated too widely
