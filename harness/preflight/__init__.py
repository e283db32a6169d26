"""Checks of a training before it is searched or run at length: seconds that may save a sweep. Knows no Hydra."""

import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module

from harness.preflight.report import Finding, PreflightReport
from harness.preflight.training_setup import (
    EvalResult,
    LabeledTokens,
    RequestedSettings,
    TextFormat,
    TrainingData,
    TrainingSetup,
)

__all__ = [
    "CHECKS",
    "EvalResult",
    "Finding",
    "LabeledTokens",
    "PreflightReport",
    "RequestedSettings",
    "TextFormat",
    "TrainingData",
    "TrainingSetup",
    "preflight",
]

CHECKS = {
    "alignment": "each position predicts the token it is meant to",
    "attention": "what must not be seen is not, what must be is",
    "gradients": "they are right, and reach all that is to be trained and nothing else",
    "reload": "a saved model is the model",
    "effective_settings": "what is asked for is what runs",
    "evaluation": "the validation loss means what it says",
    "data": "the text is sound",
    "initial_loss": "the loss begins where such a model begins",
    "overfit": "one batch can be learnt by heart",
    "cost": "what the run or the sweep will take",
}
"""Each is the module of that name here, with a function `check(subject)`; causes stand before what they bring about."""


def preflight(
    setup: TrainingSetup, checks: Iterable[str] = CHECKS, on_finding: Callable[[str, Finding], None] = lambda *_: None
) -> PreflightReport:
    """Carry out `checks`, each on the subject as it was given, and leave it so; `tell` hears each finding at once.

    A check that an error breaks off has failed: training would meet the same. ValueError for what is no check."""
    began_at, chosen = time.perf_counter(), set(checks)
    if unknown := chosen - CHECKS.keys():
        raise ValueError(f"checks: {', '.join(sorted(unknown))} is none of {', '.join(CHECKS)}")
    findings: dict[str, list[Finding]] = {}
    for name in (known for known in CHECKS if known in chosen):
        findings[name] = []
        for finding in _run_check(name, setup):
            findings[name].append(finding)
            on_finding(name, finding)
    return PreflightReport(findings, time.perf_counter() - began_at)


def _run_check(name: str, subject: TrainingSetup) -> Iterator[Finding]:
    check = import_module(f"harness.preflight.{name}").check
    try:
        with subject.preserved_state():
            yield from check(subject)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        yield Finding("fail", "the check itself", f"it was broken off by {said}", "no error", "the error's cause")
