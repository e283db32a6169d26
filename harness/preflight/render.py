"""Format findings for the terminal."""

import textwrap

from rich.console import Console
from rich.text import Text

from harness.preflight.report import LEVELS, Finding, PreflightReport

LABELS = {"pass": "pass", "warn": "WARN", "fail": "FAIL", "skip": "skip"}
COLORS = {"pass": "green", "warn": "bold yellow", "fail": "bold red", "skip": "bright_black"}
WIDTH, INDENT = 118, 25  # columns; the indent holds the level and the longest name of a check


def print_finding(check: str, finding: Finding) -> None:
    """Print one finding, colored if the output is a terminal."""
    text = Text(format_finding(check, finding))
    text.stylize(COLORS[finding.level], 0, len(LABELS[finding.level]))
    Console(soft_wrap=True, highlight=False).print(text)


def format_finding(check: str, finding: Finding) -> str:
    """Return what was observed and, for a warning or a failure, what was expected and what to do."""
    text = f"{finding.title}: {finding.observed}" if finding.observed else finding.title
    if finding.level in ("warn", "fail"):
        text += f"; expected {finding.expected}" if finding.expected else ""
        text += f"\n{finding.hint}" if finding.hint else ""
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, WIDTH - INDENT, break_long_words=False)]
    head = f"{LABELS[finding.level]:<6}{check:<{INDENT - 6}}"
    return "\n".join([head + lines[0], *(" " * INDENT + line for line in lines[1:])])


def summarize_report(report: PreflightReport) -> str:
    """Return the number of checks at each level and the failed check to look at first."""
    levels = [report.get_level(check) for check in report.findings]
    words = {"fail": "failed", "warn": "with warnings", "pass": "passed", "skip": "skipped"}
    counts = ", ".join(f"{levels.count(level)} {words[level]}" for level in reversed(LEVELS) if level in levels)
    text = f"preflight: {counts}, in {report.seconds:.1f} s"
    if report.failed_checks:
        first, *others = report.failed_checks
        text += f". Look at {first} first" + (f"; {', '.join(others)} may follow from it" if others else "")
    return text
