"""A judgement as text for a terminal and as JSON."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from harness.core.formatting import format_confidence, format_interval, format_number, format_signed
from harness.core.terminal import wrap_text
from harness.evidence.judging.judgement import JSON_SCHEMA, Evidence, JudgedSide, Judgement

LABEL_WIDTH = 12


def format_judgement(found: Judgement, width: int | None) -> list[str]:
    """Return lines of at most `width` characters."""
    verdict = f"{found.verdict.upper()}: {'; '.join(found.reasons)}"
    lines = wrap_text(verdict, width, "", " " * LABEL_WIDTH) if width else [verdict]
    for label, text in _list_lines(found):
        first = f"{label:<{LABEL_WIDTH}}"
        lines += wrap_text(text, width, first, " " * LABEL_WIDTH) if width else [f"{first}{text}"]
    return lines


def _list_lines(found: Judgement) -> Iterator[tuple[str, str]]:
    for label, side in (("candidate", found.candidate), ("to beat", found.reference)):
        if side is not None:
            yield label, _describe_side(side, found)
    if found.evidence is not None:
        yield from _describe_evidence(found.evidence, found)
    if found.noise is not None and found.noise.sd is not None:
        yield "noise", f"standard deviation {format_number(found.noise.sd)}, from {found.noise.about}"
    if found.tries:
        rerun = f", and decision {found.rerun_number} on fresh runs" if found.rerun_number else ""
        yield "tries", f"{found.tries} so far{rerun}"
    for sentence in found.next:
        yield "next", sentence
    for note in found.notes:
        yield "note", note


def _describe_side(side: JudgedSide, found: Judgement) -> str:
    runs = f"{len(side.values)} run{'s' * (len(side.values) != 1)}"
    mean = "" if side.mean is None else f": {found.metric} {side.mean:.6g}, mean of {runs}"
    return f"{side.name}{mean if len(side.values) != 1 else f': {found.metric} {side.mean:.6g}, 1 run'}"


def _describe_evidence(evidence: Evidence, found: Judgement) -> Iterator[tuple[str, str]]:
    better = "less" if found.direction == "minimize" else "more"
    interval = f"{format_confidence(evidence.confidence)} interval {format_interval(evidence.low, evidence.high)}"
    yield "difference", f"{format_signed(evidence.difference)}, {interval} ({better} is better)"
    yield (
        "test",
        (
            f"p {evidence.p:.2g} (of this test alone), must be at most {evidence.level:.2g} (5% shared among all "
            f"tries); {evidence.method}"
        ),
    )


def judgement_to_json(found: Judgement) -> dict[str, Any]:
    """Return the schema of docs/judging.md; numbers that are not finite are text."""
    document = {"schema": JSON_SCHEMA, "verdict": found.verdict, "exit_status": found.exit_status, **asdict(found)}
    document["needed"] = dict(found.needed)
    return {key: _to_plain(value) for key, value in document.items()}


def _to_plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _to_plain(inner) for name, inner in value.items()}
    return [_to_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
