"""What a check answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["pass", "warn", "fail", "not checked"]
LEVELS: tuple[Level, ...] = ("not checked", "pass", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was `seen`, with its numbers, what was `expected`, and what to `look_at` where
    these differ. A thing that could not be looked at is `not checked`, and `expected` says what that would take."""

    level: Level
    what: str
    seen: str
    expected: str = ""
    look_at: str = ""


@dataclass(frozen=True)
class PreflightReport:
    """The findings of every check, by its name, in the order of causes: what a fault brings about stands after it."""

    findings: Mapping[str, Sequence[Finding]]
    seconds: float

    def get_level(self, check: str) -> Level:
        """The gravest of its findings."""
        return max((finding.level for finding in self.findings[check]), key=LEVELS.index, default="not checked")

    @property
    def failed_checks(self) -> list[str]:
        """The checks that failed; the first is the one to look at."""
        return [check for check in self.findings if self.get_level(check) == "fail"]

    def __iter__(self) -> Iterator[tuple[str, Finding]]:
        return ((check, finding) for check, found in self.findings.items() for finding in found)
