"""Findings of a check, and the report over all checks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

Level = Literal["pass", "warn", "fail", "skip"]
LEVELS: tuple[Level, ...] = ("skip", "pass", "warn", "fail")  # in order of severity


@dataclass(frozen=True)
class Finding:
    """Result for one thing that a check examined.

    `observed` and `expected` hold the numbers, and `hint` is a sentence that says what to do if the two differ. A
    skipped finding holds the reason in `observed`.
    """

    level: Level
    title: str
    observed: str
    expected: str = ""
    hint: str = ""


passed = partial(Finding, "pass")
warned = partial(Finding, "warn")
failed = partial(Finding, "fail")


def passed_if(condition: bool, title: str, observed: str, expected: str, hint: str) -> Finding:
    """Return a finding that passed if `condition` holds and failed otherwise."""
    return Finding("pass" if condition else "fail", title, observed, expected, hint)


def skipped(title: str, reason: str) -> Finding:
    """Return a finding for something that could not be checked; `reason` says what the check needs."""
    return Finding("skip", title, reason)


@dataclass(frozen=True)
class PreflightReport:
    """The findings by check. Causes come before their consequences, so the first failed check is the one to fix."""

    findings: Mapping[str, Sequence[Finding]]
    seconds: float

    def get_level(self, check: str) -> Level:
        """Return the most severe level among the findings of `check`."""
        return max((finding.level for finding in self.findings[check]), key=LEVELS.index, default="skip")

    @property
    def failed_checks(self) -> list[str]:
        """Names of the failed checks; fix the first one first."""
        return [check for check in self.findings if self.get_level(check) == "fail"]

    def __iter__(self) -> Iterator[tuple[str, Finding]]:
        return ((check, finding) for check, findings in self.findings.items() for finding in findings)
