"""Findings as a person at a terminal reads them."""

import textwrap

from harness.preflight.findings import GRAVITY, Finding, Report

SIGNS = {"pass": "pass", "warn": "WARN", "fail": "FAIL", "not checked": "-"}
WIDTH, INDENT = 118, 19


def line(check: str, finding: Finding) -> str:
    """One finding: what was seen, and unless it is well what was expected and where to look."""
    text = f"{finding.what}: {finding.seen}" if finding.seen else finding.what
    if finding.level in ("warn", "fail"):
        text += "".join(f"; {word} {said}" for word, said in (("expected", finding.expected),) if said)
    elif finding.level == "not checked":
        text = (
            f"{finding.what}: not checked, {finding.expected}" if finding.expected else f"{finding.what}: not checked"
        )
    lines = [text]
    if finding.level in ("warn", "fail") and finding.look_at:
        lines.append(f"look at {finding.look_at}")
    head = f"{SIGNS[finding.level]:<6}{check:<13}"
    wrapped = [part for text in lines for part in textwrap.wrap(text, WIDTH - INDENT, break_long_words=False)]
    return "\n".join([head + wrapped[0], *(" " * INDENT + part for part in wrapped[1:])])


def summary(report: Report) -> str:
    """The checks by their level, and of those that failed the first, which is the one to look at."""
    levels = {level: [check for check in report.findings if report.level(check) == level] for level in GRAVITY}
    words = {"pass": "passed", "warn": "to be looked at", "fail": "failed", "not checked": "not checked"}
    counts = ", ".join(f"{len(levels[level])} {words[level]}" for level in reversed(GRAVITY) if levels[level])
    told = f"preflight: {counts}, in {report.seconds:.1f} s"
    if report.failed:
        others = f"; what follows from it may be {', '.join(report.failed[1:])}" if report.failed[1:] else ""
        told += f". Look at {report.failed[0]} first{others}"
    return told
