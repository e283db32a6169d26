"""Notices about a configuration that commands print before they train."""

from collections.abc import Sequence

from omegaconf import DictConfig

from harness.config.compose import list_left_out
from harness.config.option_values import describe_left_out
from harness.run.base_model import describe_foreign_base


def describe_choices(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return notices about what `overrides`, of which `cfg` was composed, leave out or take from elsewhere."""
    return [*describe_left_out(list_left_out(overrides)), *describe_foreign_base(cfg, overrides)]
