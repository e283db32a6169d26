"""Findings as a person at a terminal reads them."""

import textwrap

from rich.console import Console
from rich.text import Text

from harness.preflight.report import LEVELS, Finding, PreflightReport

LABELS = {"pass": "pass", "warn": "WARN", "fail": "FAIL", "not checked": "-"}
COLOURS = {"pass": "green", "warn": "bold yellow", "fail": "bold red", "not checked": "bright_black"}
WIDTH, INDENT = 118, 19


def print_finding(check: str, finding: Finding) -> None:
    """Print one finding, in colour where there is a terminal."""
    text = Text(format_finding(check, finding))
    text.stylize(COLOURS[finding.level], 0, len(LABELS[finding.level]))
    Console(soft_wrap=True, highlight=False).print(text)


def format_finding(check: str, finding: Finding) -> str:
    """One finding: what was seen, and unless it is well what was expected and where to look."""
    text = f"{finding.what}: {finding.seen}" if finding.seen else finding.what
    if finding.level == "not checked":
        text = ": not checked, ".join(filter(None, (finding.what, finding.expected)))
    elif finding.level != "pass" and finding.expected:
        text += f"; expected {finding.expected}"
    lines = [text]
    if finding.level in ("warn", "fail") and finding.look_at:
        lines.append(f"look at {finding.look_at}")
    head = f"{LABELS[finding.level]:<6}{check:<13}"
    wrapped = [part for text in lines for part in textwrap.wrap(text, WIDTH - INDENT, break_long_words=False)]
    return "\n".join([head + wrapped[0], *(" " * INDENT + part for part in wrapped[1:])])


def summarize_report(report: PreflightReport) -> str:
    """The checks by their level, and of those that failed the first, which is the one to look at."""
    levels = {level: [check for check in report.findings if report.get_level(check) == level] for level in LEVELS}
    words = {"pass": "passed", "warn": "to be looked at", "fail": "failed", "not checked": "not checked"}
    counts = ", ".join(f"{len(levels[level])} {words[level]}" for level in reversed(LEVELS) if levels[level])
    told = f"preflight: {counts}, in {report.seconds:.1f} s"
    if report.failed_checks:
        others = (
            f"; what follows from it may be {', '.join(report.failed_checks[1:])}" if report.failed_checks[1:] else ""
        )
        told += f". Look at {report.failed_checks[0]} first{others}"
    return told
