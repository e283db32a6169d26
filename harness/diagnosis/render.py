"""Format diagnoses for the terminal."""

from collections.abc import Iterable, Iterator

from harness.core.events import Diagnosis
from harness.core.terminal import wrap_text
from harness.diagnosis.dialects import Dialect, render_suggestions


def format_diagnoses(diagnoses: Iterable[Diagnosis], width: int, dialect: Dialect = "harness") -> Iterator[str]:
    """Yield for each diagnosis a line with kind, step and confidence, the reason, and the settings to try.

    The settings have lines of their own, unbroken, to be copied.
    """
    for diagnosis in diagnoses:
        yield f"  {diagnosis.kind} · step {diagnosis.step} · confidence {diagnosis.confidence:.0%}"
        yield from wrap_text(diagnosis.reason, width, "    ", "    ")
        yield from format_suggestions(diagnosis, "    ", dialect)


def format_suggestions(diagnosis: Diagnosis, indent: str, dialect: Dialect = "harness") -> Iterator[str]:
    """Yield "try" and lines with the settings; nothing if there are none."""
    lines = render_suggestions(diagnosis.suggestions, dialect)
    if lines:
        yield f"{indent}try"
        yield from (f"{indent}  {line}" for line in lines)
