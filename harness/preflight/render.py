"""Format findings for the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from harness.core.terminal import paragraph_width, wrap_text
from harness.preflight.cost import estimate_seconds
from harness.preflight.report import LEVELS, Finding, PreflightReport
from harness.preflight.training_setup import TrainingSetup

LABELS = {"pass": "pass", "warn": "WARN", "fail": "FAIL", "skip": "skip"}
COLORS = {"pass": "green", "warn": "bold yellow", "fail": "bold red", "skip": "bright_black"}
INDENT = 25  # columns, which hold the level and the longest name of a check


def describe_start(setup: TrainingSetup, checks: Sequence[str]) -> str:
    """Return how many checks are to run and how long they take; an error is left for the checks to report."""
    text = f"preflight: {len(checks)} checks" if len(checks) > 1 else f"preflight: {checks[0]}"
    try:
        seconds = estimate_seconds(setup)
    except Exception:
        return text
    return f"{text}, about {seconds:.0f} s" if len(checks) > 1 else text


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
    head = f"{LABELS[finding.level]:<6}{check:<{INDENT - 6}}"
    return "\n".join(wrap_text(text, paragraph_width(), head, " " * INDENT))


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
