"""Checks of a training setup before it is searched or run at length.

The checks take seconds and know nothing of Hydra: they work on any model, batches and loss function.
"""

import sysconfig
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

import torch

from harness.core.state import eval_mode
from harness.preflight.report import (
    CannotCheck,
    Finding,
    PreflightFailedError,
    PreflightReport,
    UserCodeError,
    UserResultError,
    failed,
    skipped,
)
from harness.preflight.setup_values import EvalResult, RequestedSettings, TrainingData
from harness.preflight.text_format import LabeledTokens, TextFormat
from harness.preflight.training_setup import TrainingSetup

__all__ = [
    "CHECKS",
    "EvalResult",
    "Finding",
    "LabeledTokens",
    "PreflightFailedError",
    "PreflightReport",
    "RequestedSettings",
    "TextFormat",
    "TrainingData",
    "TrainingSetup",
    "preflight",
]

# Each name is a module of this package with a function `check(setup)`. Causes come before their consequences.
CHECKS = {
    "batches": "batches differ, and labels stand where something is to be predicted",
    "loss_form": "output and loss have the expected form, and the loss is a mean over what is scored",
    "alignment": "logits, labels and loss refer to the same token",
    "independence": "rows and packed documents do not affect each other",
    "attention": "what is to be predicted is hidden, and the context is not",
    "padding": "padding does not change the output",
    "gradients": "gradients are correct, and the optimizer holds exactly the trainable parameters",
    "optimizer": "each parameter is held once, with its decay and its state",
    "train_step": "the training step applies the gradient of the loss to every trainable parameter",
    "effective_settings": "learning rates, schedule, batch size and decay in effect are those requested",
    "model_size": "parameters and passes over the data are those intended",
    "reload": "saving, loading and merging adapters preserve the model",
    "evaluation": "evaluation changes nothing and covers the validation set, which shares nothing with training",
    "data": "the text has no duplicates, broken documents or outlier passages",
    "initial_loss": "the first loss is what random or pretrained weights should score",
    "overfit": "a single batch can be overfitted",
    "cost": "time and memory that the run or the sweep takes",
}
HARNESS_FOLDER = Path(__file__).parents[1]


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

    A check fails if one of the given functions raises an error on what it was given, as training would meet it too. An
    error on input that a check made up only skips the check.

    Raises:
        ValueError: If a name in `checks` is unknown.
    """
    started_at, chosen = time.perf_counter(), set(checks)
    if unknown := chosen - CHECKS.keys():
        raise ValueError(f"checks: {', '.join(sorted(unknown))}: must be one of {', '.join(CHECKS)}")
    findings: dict[str, list[Finding]] = {}
    errors: set[str] = set()  # that failed a check before; each is reported once
    for name in (known for known in CHECKS if known in chosen):
        findings[name] = []
        for finding in _run_check(name, setup):
            if is_known := finding.title == "the check" and finding.observed in errors:
                finding = skipped("the check", f"{finding.observed}; see above")
            if not is_known and (finding.title, finding.level) == ("the check", "fail"):
                errors.add(finding.observed)
            findings[name].append(finding)
            on_finding(name, finding)
    return PreflightReport(findings, time.perf_counter() - started_at)


def _run_check(name: str, setup: TrainingSetup) -> Iterator[Finding]:
    check = import_module(f"harness.preflight.{name}").check
    yield from setup.known_findings.get(name, ())
    try:
        with setup.preserved_state():
            yield from check(setup)
    except CannotCheck as reason:
        yield skipped(name, str(reason))
    except Exception as error:
        yield _judge_error(setup, error)


def _judge_error(setup: TrainingSetup, error: Exception) -> Finding:
    """Return a failure with the place of the error, or a skip if the first batch as it is raises none."""
    if isinstance(error, UserResultError):
        return failed("the check", *error.args)
    cause = error.__cause__ if isinstance(error, UserCodeError) and isinstance(error.__cause__, Exception) else error
    message = describe_user_error(cause)
    if not isinstance(error, UserCodeError) and _can_train(setup):
        if _is_internal(error):
            return skipped("the check", f"internal error: {message}; please report it")
        return skipped("the check", f"raised {message} on batches that it cut or changed; the first as given works")
    name = f"`{str(error).partition(':')[0]}`" if isinstance(error, UserCodeError) else "the loss"
    hint = "Find the cause of this error; training will raise it too"
    return failed("the check", f"{name} raised {message}", "no error", hint)


def _can_train(setup: TrainingSetup) -> bool:
    """Return whether the loss of the first batch and its gradients can be computed."""
    try:
        with setup.preserved_state(), torch.enable_grad(), eval_mode(setup.model):
            loss = setup.compute_loss(setup.batches[0])
            if loss.requires_grad:
                loss.backward()
    except Exception:
        return False
    return True


def _is_internal(error: Exception) -> bool:
    """Return whether an error comes from no code of the user, of an integration, or of a module that was called."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    is_called = any("integrations" in Path(name).parts or "/nn/modules/" in name for name in files)
    return not is_called and not find_user_frame(error)


def describe_user_error(error: BaseException) -> str:
    """Return type, message and place of an error in one line; a first line that ends in a colon needs the second."""
    first, *others = f"{type(error).__name__}: {error}".splitlines()
    text = f"{first} {others[0].strip()}" if others and first.endswith(":") else first
    where = find_user_frame(error)
    return f"{text}, in {where}" if where else text


def find_user_frame(error: BaseException) -> str:
    """Return file and line of the innermost frame outside this package, the standard library and installed packages."""
    libraries = (str(HARNESS_FOLDER), sysconfig.get_paths()["stdlib"], "<")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "site-packages" not in frame.filename and not frame.filename.startswith(libraries):
            return f"{frame.filename}:{frame.lineno}"
    return ""
