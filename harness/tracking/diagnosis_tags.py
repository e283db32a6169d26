"""Diagnoses as MLflow shows them: tags of a run, and paragraphs of its description."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.events import Suggestion
from harness.diagnosis.dialects import render_suggestions

DIAGNOSIS_TAG_PREFIX = "diagnosis."


def make_diagnosis_tags(diagnoses: Sequence[Mapping[str, Any]], ending: str = "") -> dict[str, str]:
    """Return a tag for each kind of diagnosis with the steps and confidences of its diagnoses."""
    by_kind: dict[str, list[str]] = {}
    for one in diagnoses:
        text = f"step {one['step']}, {one['confidence']:.0%}{ending}"
        by_kind.setdefault(f"{DIAGNOSIS_TAG_PREFIX}{one['kind']}", []).append(text)
    return {tag: " | ".join(texts) for tag, texts in by_kind.items()}


def format_diagnosis_note(diagnosis: Mapping[str, Any]) -> str:
    """Return a diagnosis as Markdown, for the description of a run."""
    lines = render_suggestions([Suggestion(**one) for one in diagnosis["suggestions"]])
    suggestion = f" Try `{'`, `'.join(lines)}`." if lines else ""
    when = f"at step {diagnosis['step']} ({diagnosis['confidence']:.0%})"
    return f"**{diagnosis['kind']}** {when}: {diagnosis['reason']}.{suggestion}"
