"""Findings of a check, and the report over all checks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

Level = Literal["pass", "warn", "fail", "skip"]
LEVELS: tuple[Level, ...] = ("skip", "pass", "warn", "fail")  # in order of severity


class CannotCheck(Exception):
    """Raised by a check that does not apply; the message says what it needs."""


class UserCodeError(Exception):
    """An error raised by a function that the user gave, called as it stands."""


class UserResultError(UserCodeError):
    """A function that the user gave returned something else: (what it returned, what is expected, a hint)."""


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

    def describe(self) -> str:
        """Return one line with what was observed and, for a warning or a failure, what was expected and what to do."""
        text = f"{self.title}: {self.observed}" if self.observed else self.title
        if self.level in ("warn", "fail"):
            text += f"; expected {self.expected}" if self.expected else ""
            text += f". {self.hint}" if self.hint else ""
        return text


passed = partial(Finding, "pass")
warned = partial(Finding, "warn")
failed = partial(Finding, "fail")


def passed_if(condition: bool, title: str, observed: str, expected: str, hint: str) -> Finding:
    """Return a finding that passed if `condition` holds and failed otherwise."""
    return Finding("pass" if condition else "fail", title, observed, expected, hint)


def skipped(title: str, reason: str) -> Finding:
    """Return a finding for something that could not be checked; `reason` says what the check needs."""
    return Finding("skip", title, reason)


class PreflightFailedError(Exception):
    """Raised by `raise_if_failed`; the message holds the failing findings."""


@dataclass(frozen=True)
class PreflightReport:
    """The findings by check. Causes come before their consequences, so the first failed check is the one to fix."""

    findings: Mapping[str, Sequence[Finding]]
    seconds: float

    def get_level(self, check: str) -> Level:
        """Return the most severe level among the findings of `check`."""
        return max((finding.level for finding in self.findings[check]), key=LEVELS.index, default="skip")

    @property
    def status(self) -> Level:
        """The most severe level among all findings."""
        return max(map(self.get_level, self.findings), key=LEVELS.index, default="skip")

    @property
    def failed_checks(self) -> list[str]:
        """Names of the failed checks; fix the first one first."""
        return [check for check in self.findings if self.get_level(check) == "fail"]

    def raise_if_failed(self) -> None:
        """Do nothing if no check failed.

        Raises:
            PreflightFailedError: With the failing findings, the cause first.
        """
        failures = [f"{check}: {finding.describe()}" for check, finding in self if finding.level == "fail"]
        if failures:
            raise PreflightFailedError("\n".join(failures))

    def to_dict(self) -> dict[str, Any]:
        """Return status, duration and findings as plain values, for JSON."""
        findings = [{"check": check, **asdict(finding)} for check, finding in self]
        return {
            "status": self.status,
            "failed_checks": self.failed_checks,
            "seconds": self.seconds,
            "findings": findings,
        }

    def __iter__(self) -> Iterator[tuple[str, Finding]]:
        return ((check, finding) for check, findings in self.findings.items() for finding in findings)
