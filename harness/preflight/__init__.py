"""Checks of a training setup before it is searched or run at length.

The checks take seconds and know nothing of Hydra: they work on any model, batches and loss function.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module

from harness.preflight.report import Finding, PreflightReport, failed
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

# Each name is a module of this package with a function `check(setup)`. Causes come before their consequences.
CHECKS = {
    "alignment": "logits, labels and loss refer to the same token",
    "attention": "padding and later tokens are masked, the context is not",
    "gradients": "gradients are correct and reach exactly the trainable parameters",
    "reload": "saving, loading and merging adapters preserve the model",
    "effective_settings": "learning rates, schedule, batch size and decay in effect are those requested",
    "evaluation": "the validation loss covers the validation set, which shares nothing with training",
    "data": "the text has no duplicates, broken documents or outlier passages",
    "initial_loss": "the first loss is what random or pretrained weights should score",
    "overfit": "a single batch can be overfitted",
    "cost": "time and memory that the run or the sweep takes",
}


def preflight(
    setup: TrainingSetup,
    checks: Iterable[str] = CHECKS,
    on_finding: Callable[[str, Finding], None] = lambda check, finding: None,
) -> PreflightReport:
    """Run `checks` on a training setup and leave the setup unchanged.

    Args:
        setup: The training to check.
        checks: Names from CHECKS; they run in the order of CHECKS.
        on_finding: Called with the check's name and each finding as soon as it is made.

    A check that raises an error counts as failed: training would likely meet the same error.

    Raises:
        ValueError: If a name in `checks` is unknown.
    """
    started_at, chosen = time.perf_counter(), set(checks)
    if unknown := chosen - CHECKS.keys():
        raise ValueError(f"checks: {', '.join(sorted(unknown))}: must be one of {', '.join(CHECKS)}")
    findings: dict[str, list[Finding]] = {}
    for name in (known for known in CHECKS if known in chosen):
        findings[name] = []
        for finding in _run_check(name, setup):
            findings[name].append(finding)
            on_finding(name, finding)
    return PreflightReport(findings, time.perf_counter() - started_at)


def _run_check(name: str, setup: TrainingSetup) -> Iterator[Finding]:
    check = import_module(f"harness.preflight.{name}").check
    try:
        with setup.preserved_state():
            yield from check(setup)
    except Exception as error:
        message = f"{type(error).__name__}: {error}".partition("\n")[0]
        yield failed(
            "the check", f"raised {message}", "no error", "Find the cause of this error; training may meet it too"
        )
