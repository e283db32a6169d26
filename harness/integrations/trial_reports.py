"""Reports to a sweep from a training of another framework, which may run in several processes."""

from collections.abc import Callable, Collection
from typing import Any

from harness.sweep.reporting import report


def report_in_all_processes(
    value: Any,
    step: int,
    total_steps: int | None,
    is_true_anywhere: Callable[[bool], bool],
    checkpoint: str | None = None,
) -> None:
    """Report a value in the first process. If that ends the trial, all processes leave their training.

    Args:
        value: A number or a tensor of one element.
        step: Optimizer steps so far.
        total_steps: Those of the whole run, None if unknown.
        is_true_anywhere: Returns whether its argument is true in any process of the training; called in all of them.
        checkpoint: The newest one that is complete, if there is one; that of the first process counts.

    Raises:
        Pruned: In the first process, if the pruner stops the trial.
        Paused: In the first process, if the sweep pauses the trial.
        Interrupted: In the first process, if the sweep was asked to stop.
        SystemExit: In the others, with status 0: launchers kill the first process if another one fails.
    """
    error: Exception | None = None
    try:
        report(value, step=step, total_steps=total_steps, checkpoint=checkpoint)
    except Exception as raised:
        error = raised
    if is_true_anywhere(error is not None):
        raise SystemExit(0) if error is None else error


def describe_missing_metric(setting: str, name: str, logged: Collection[str]) -> str:
    """Return an error message for a metric that a callback was told to report and that was not logged."""
    known = ", ".join(sorted(logged)) or "none"
    return f"ReportCallback: {setting}: {name!r} is not among the metrics of the evaluation; there are {known}"
