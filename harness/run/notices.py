"""Notices about a configuration that commands print before they train."""

from collections.abc import Iterable, Sequence

from omegaconf import DictConfig

from harness.config.compose import list_left_out
from harness.config.option_values import LeftOut, describe_left_out
from harness.run.base_model import describe_foreign_base


def describe_choices(cfg: DictConfig, overrides: Sequence[str], left_out: Iterable[LeftOut] | None = None) -> list[str]:
    """Return notices about what `overrides`, of which `cfg` was composed, leave out or take from elsewhere.

    A sweep passes what any of its trials has `left_out`.
    """
    parts = list_left_out(overrides) if left_out is None else left_out
    return [*describe_left_out(parts), *describe_foreign_base(cfg, overrides)]
