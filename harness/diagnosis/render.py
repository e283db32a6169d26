"""Format diagnoses for the terminal."""

import shlex
from collections.abc import Iterable, Iterator

from harness.core.events import Diagnosis
from harness.core.terminal import wrap_text


def format_diagnoses(diagnoses: Iterable[Diagnosis], width: int) -> Iterator[str]:
    """Yield for each diagnosis a line with kind, step and confidence, the reason, and the overrides to try.

    The overrides have lines of their own, unbroken, to be copied.
    """
    for diagnosis in diagnoses:
        yield f"  {diagnosis.kind} · step {diagnosis.step} · confidence {diagnosis.confidence:.0%}"
        yield from wrap_text(diagnosis.reason, width, "    ", "    ")
        yield from format_suggestion(diagnosis, "    ")


def format_suggestion(diagnosis: Diagnosis, indent: str) -> Iterator[str]:
    """Yield "try" and a line with the overrides; nothing if there are none."""
    if diagnosis.overrides:
        yield f"{indent}try"
        yield f"{indent}  {shlex.join(diagnosis.overrides)}"
