"""Where a number becomes a verdict."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """As conf/thresholds/default.yaml has them, each with its source."""
