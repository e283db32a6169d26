"""The port between a sweep and the program whose runs are its trials. Nothing else in sweep/ knows which it is."""

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import Trial

from harness.core.credentials import hide_credentials_in_text
from harness.core.errors import ConfigError, describe_exception
from harness.core.shortage import ShortageError, describe_shortage
from harness.sweep.study.pruning import Advice
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.trial_attrs import TrialResult

STOPPED = "the sweep was asked to stop"


@dataclass(frozen=True)
class TrialJob:
    """One trial to run: its number, its values by key, the folder for its files and the threads it may use.

    The values at the `rungs`, shares of the run, decide whether it goes on. A trial that `is_continued` was paused or
    interrupted; of other programs, `checkpoint` is what they reported then. `study_name` and `sweep_id` identify the
    sweep, for what the trial records elsewhere. `tags` are for its record.
    """

    number: int
    values: Mapping[str, Any]
    folder: Path
    n_threads: int | None
    study_name: str
    sweep_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    rungs: Sequence[float] = ()
    is_continued: bool = False
    checkpoint: str = ""


class Reporter(Protocol):
    """Takes the values of a trial, and says whether it goes on: a `TrialReporter`, or one that asks it."""

    @property
    def fraction_done(self) -> float: ...

    def report_share(self, value: float, fraction_done: float, *, can_pause: bool = False) -> Advice: ...

    def report_step(
        self, value: float, step: int, total_steps: int | None = None, *, can_pause: bool = False
    ) -> Advice: ...


class TrialRunner(Protocol):
    """Runs trials of one study in a worker process."""

    def run_trial(self, job: TrialJob, reporter: Reporter, should_stop: Callable[[], bool]) -> TrialResult:
        """Run a trial to its end, or until the `reporter` says that it pauses or is pruned, or `should_stop()` is true.

        A trial that is continued but whose checkpoint is gone starts over.

        Returns:
            How it ended, and the values of the objectives if it was completed.

        Raises:
            ConfigError: If the trial's values cannot be used; the trial fails.
            Exception: Whatever else the program raises; the trial fails with a traceback in the worker's log.
        """
        ...

    def extend_trial(self, trial: Trial) -> None:
        """Suggest values of a new trial beyond those of the search space, as a function of the user's may.

        Raises:
            ValueError: If that fails; the trial fails.
        """
        ...


MakeRunner = Callable[[StudySpec, Mapping[str, Any]], TrialRunner]
"""Return the runner of a study from its settings and those of its program."""


def run_caught(run: Callable[[], TrialResult], folder: Path, storage: str = "") -> TrialResult:
    """Run a trial, and return a failed result in place of an error, which is printed unless it explains itself.

    Args:
        storage: An address whose credentials are not shown.

    Raises:
        ShortageError: If there is no space left, which is not the trial's fault.
    """
    started = time.monotonic()
    try:
        return run()
    except ConfigError as error:
        reason = str(error)
    except Exception as error:
        if shortage := describe_shortage(error, folder):
            raise ShortageError(shortage) from error
        print(hide_credentials_in_text(traceback.format_exc(), storage), file=sys.stderr)
        reason = describe_exception(error)
    return TrialResult("failed", hide_credentials_in_text(reason, storage), seconds=time.monotonic() - started)


class CommandLine(Protocol):
    """The commands of the program and its sweep as the user types them, for what is printed."""

    def format_command(self, values: Mapping[str, Any]) -> str:
        """Return the command that runs the program as a trial with `values` does, outside of a sweep."""
        ...

    def format_wider_search(self, key: str, text: str) -> str:
        """Return what, in the command of the sweep, searches `key` over the range `text` in another study."""
        ...

    def rename_options(self, message: str) -> str:
        """Return a message that names options of a sweep, such as sweep.study=NAME, with the user's names for them."""
        ...

    @property
    def baseline_name(self) -> str:
        """The configuration of trial 0, in words."""
        ...

    @property
    def confirm_options(self) -> str | None:
        """The options that `plateau confirm` needs for the program; None if it cannot start it."""
        ...
