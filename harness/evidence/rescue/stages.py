"""Run the stages of a rescue one after the other, each of them once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError, RunFailedError
from harness.core.files import FileLock
from harness.core.signals import was_interrupted
from harness.core.terminal import print_fitted
from harness.evidence.rescue.record import Ending, RescueRecord, StageResult

LOCK_FILE = "rescue.lock"
RunStage = Callable[[RescueRecord], StageResult]


@dataclass(frozen=True)
class Rescue:
    """A rescue to run: its stages by name, in their order, the folder of its record, and the inputs that it keeps.

    `summary` says what it may cost, and `notices` are for the user.
    """

    stages: Mapping[str, RunStage]
    folder: Path
    inputs: Mapping[str, Any]
    summary: str
    notices: Sequence[str] = ()


def run_stages(stages: Mapping[str, RunStage], record: RescueRecord, command: str) -> Ending | None:
    """Run the stages that are not finished yet, and return how the rescue ended; None if no stage ended it.

    `command` continues the rescue. A stage in which the user is to fix something is run again by the next command.

    Raises:
        ConfigError: If another process runs this rescue.
        RunFailedError: If a stage failed.
        KeyboardInterrupt: If a stage was interrupted.
    """
    folder = record.path.parent
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, required=False)
    if not lock.acquire(blocking=False):
        raise ConfigError(f"--to: {folder}: another process runs this rescue; wait for it, or choose another folder")
    try:
        for number, (name, run_stage) in enumerate(stages.items(), 1):
            with _explain_ends(name, command):
                print_fitted(f"[{number}/{len(stages)}] {name}")
                result = record.get_result(name)
                if result is None or (result.ending and result.ending.result == "fault"):
                    result = run_stage(record)
                    record.finish_stage(name, result)
                    print_fitted(result.summary)
                else:
                    print_fitted(f"done before: {result.summary}")
                if result.ending:
                    return result.ending
                if result.next_command:
                    print(f"by hand, the next step is\n  {result.next_command}", flush=True)
    finally:
        lock.release()
    return None


@contextmanager
def _explain_ends(stage: str, command: str) -> Iterator[None]:
    """Say in which stage a rescue was interrupted or failed, and how to continue.

    Raises:
        RunFailedError: If it failed.
        KeyboardInterrupt: If it was interrupted, also where a library made another exception of it.
    """
    remedy = f"to continue: {command}"
    try:
        yield
    except KeyboardInterrupt as interrupt:
        reason = str(interrupt).removeprefix("interrupted").strip(": ")
        reason = f": {reason}" if reason else ""
        raise KeyboardInterrupt(f"interrupted in stage {stage}{reason}; {remedy}") from interrupt
    except Exception as error:
        if was_interrupted():
            raise KeyboardInterrupt(f"interrupted in stage {stage}; {remedy}") from error
        if isinstance(error, RunFailedError):
            raise RunFailedError(f"stage {stage}: {error}; {remedy}") from error
        raise
