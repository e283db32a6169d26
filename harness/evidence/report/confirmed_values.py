"""The values of a confirmation as numbers of a report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.evidence.confirm.from_study import CONFIRM_FOLDER
from harness.evidence.confirm.result import CONFIRM_FILE
from harness.evidence.report.seed_values import SeedValues
from harness.evidence.report.verdict_check import check_verdicts


@dataclass
class Confirmed(SeedValues):
    """A confirmation.

    Raises:
        ConfigError: If a verdict is not what its runs give.
    """

    file = CONFIRM_FILE
    folder = CONFIRM_FOLDER

    def __post_init__(self) -> None:
        check_verdicts(self.content)
        super().__post_init__()

    @property
    def verdicts(self) -> list[Mapping[str, Any]]:
        return list(self.content["verdicts"])
