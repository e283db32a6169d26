"""Train and record a run that is built. Only this module decides the status of a run."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from harness.core import distributed
from harness.core.credentials import write_traceback
from harness.core.distributed import ProcessGroup
from harness.core.errors import ConfigError
from harness.core.events import Notice, RunEnd, RunStart
from harness.core.files import remove_leftovers
from harness.core.paths import TRACEBACK_FILE
from harness.core.ranks import LostPeersError, has_lost_peers
from harness.core.shortage import ShortageError, describe_shortage
from harness.core.signals import stop_on_signals
from harness.core.state import TrainState
from harness.observers.composite import CompositeObserver
from harness.observers.figures import FigureWriter
from harness.observers.metrics_writer import MetricsWriter
from harness.record.example_losses import copy_example_losses
from harness.record.past_record import encode_position
from harness.run import run_dir
from harness.run.build import RunParts
from harness.run.continuation import Continuation, find_undecided
from harness.run.final_evaluation import draw_predictions, score_test_split
from harness.run.result import SHARED_FIELDS, RunResult
from harness.run.user_code import describe_error
from harness.tracking.upload_cursor import rewound_upload
from harness.training.checkpointer import Checkpointer
from harness.training.loop import Trainer
from harness.training.policies import Policy, Stop


@dataclass(frozen=True)
class StartInfo:
    """Start of a run: messages, a table for start.txt, tags, and what a run that it resumes or continues has left."""

    is_resumed: bool = False
    notices: tuple[str, ...] = ()
    table: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    best: Path | None = None
    """The best checkpoint of the run that it resumes."""
    continued: Continuation | None = None


def train_and_record(
    start: RunStart,
    parts: RunParts,
    processes: ProcessGroup,
    checkpointer: Checkpointer,
    emit: CompositeObserver,
    policies: Sequence[Policy],
    start_info: StartInfo,
    is_held: Callable[[], bool],
) -> RunResult:
    """Train and emit all events; `is_held` returns whether a signal was received outside of the training."""
    folder, state, continued = start.folder, parts.state, start_info.continued
    shortage, has_lost_others = "", False
    started_at = time.perf_counter() - (start.past.seconds if start.past else 0.0)
    test_loss: float | None = None
    _begin_record(start, start_info, processes, emit)
    save = _save_with_record(processes, checkpointer, emit, started_at)
    try:
        with stop_on_signals() as is_stopping:
            if start_info.is_resumed:  # after the record has begun: only a run with a record can be resumed
                _carry_over_best(start_info.best, checkpointer, folder)
                save(state, False)
            if continued:
                checkpointer.continue_from(state, continued.checkpoint)
            trainer = Trainer(
                parts.task,
                state,
                parts.plan,
                processes,
                parallel=parts.parallel,
                policies=(*parts.policies, *policies),
                emit=emit,
                save=save,
                restore_before=checkpointer.restore_before,
                is_stopping=lambda: is_held() or is_stopping(),
                is_continued=continued is not None,
                undecided=find_undecided(continued, parts.plan) if continued else None,
            )
            stop = trainer.train()
            if parts.test_task and stop.status == "completed":
                test_loss = score_test_split(parts.test_task, state, parts.plan, processes, checkpointer.folder, emit)
    except KeyboardInterrupt:
        stop = Stop("interrupted", "stopped by a second signal")
    except Exception as error:
        shortage = describe_shortage(error, folder)
        stop = Stop("interrupted", shortage) if shortage else _fail(error, folder, processes)
        has_lost_others = has_lost_peers(error)
    if stop.status == "completed" and any(isinstance(observer, FigureWriter) for observer in emit.observers):
        draw_predictions(parts.task, folder, emit)
    result = _make_result(stop, parts, folder, time.perf_counter() - started_at, test_loss)
    shortage = _end_record(result, emit) or shortage
    if shortage:
        if processes.is_main and not remove_leftovers(checkpointer.folder):
            emit.close()  # with too many open files, a folder can be read again only once the record is closed
            remove_leftovers(checkpointer.folder)
        raise ShortageError(f"{shortage} after step {state.step}")
    if has_lost_others:
        raise LostPeersError(f"interrupted: {result.reason}")
    return result


def _fail(error: Exception, folder: Path, processes: ProcessGroup) -> Stop:
    """Write the traceback, and leave the other processes, which may not have this error; one of them may have died."""
    distributed.abandon_process_group()
    write_traceback(folder / f"{processes.rank or ''}{TRACEBACK_FILE}", error)
    if has_lost_peers(error):
        return Stop("interrupted", f"process {processes.rank} has lost another one: {describe_error(error)}")
    return Stop("failed", describe_error(error))


def _begin_record(start: RunStart, start_info: StartInfo, processes: ProcessGroup, emit: CompositeObserver) -> None:
    """Begin the record of a run, or cut that of a continued one back to its checkpoint, and what is uploaded of it.

    Raises:
        ConfigError: If the record of a continued run cannot be written.
    """
    if start_info.table and processes.is_main:
        (start.folder / "start.txt").write_text(start_info.table + "\n")

    def begin() -> None:
        emit(start)
        if start.past and processes.is_main and _find_writer(emit) is None:
            raise ConfigError(f"{start.folder}: its record cannot be continued; set observers.metrics_file")

    past = start.past if processes.is_main else None
    with rewound_upload(start.folder, past.n_bytes) if past else nullcontext():
        processes.run_main_first(begin)
    for notice in start_info.notices:
        emit(Notice(notice))


def _save_with_record(
    processes: ProcessGroup, checkpointer: Checkpointer, emit: CompositeObserver, started_at: float
) -> Callable[[TrainState, bool], None]:
    """Return a function that writes the record to the disk, and then a checkpoint that says how long it is."""

    def save(state: TrainState, is_best: bool) -> None:
        processes.run_main_first(emit.flush)  # a run that resumes from this checkpoint records nothing before it
        writer, seconds = _find_writer(emit), time.perf_counter() - started_at
        past = writer.describe_position(state.step, seconds) if writer else None
        checkpointer.save(state, is_best, encode_position(past) if past else None)

    return save


def _find_writer(emit: CompositeObserver) -> MetricsWriter | None:
    return next((observer for observer in emit.observers if isinstance(observer, MetricsWriter)), None)


def _carry_over_best(best: Path | None, checkpointer: Checkpointer, folder: Path) -> None:
    """Copy the best checkpoint of a resumed run, and the losses of its examples, so that it is not needed again.

    This comes before the first checkpoint: if this process is killed in between, there is none without the best.
    """
    checkpointer.link_best(best)
    if best and checkpointer.processes.is_main:
        copy_example_losses(best.parents[1], folder)


def _end_record(result: RunResult, emit: CompositeObserver) -> str:
    """Record the end of a run; return what the machine ran out of if the record could not be completed."""
    shared = {name: getattr(result, name) for name in SHARED_FIELDS}
    emit(RunEnd(**shared, artifacts=run_dir.list_description_files(result.folder)))
    try:
        emit.flush()
    except OSError as error:
        return describe_shortage(error, result.folder)
    return ""


def _make_result(stop: Stop, parts: RunParts, folder: Path, seconds: float, test_loss: float | None) -> RunResult:
    state = parts.state
    return RunResult(
        status=stop.status,
        reason=stop.reason,
        best_val_loss=state.best_val_loss,
        best_step=state.best_step,
        step=state.step,
        tokens=state.tokens,
        seconds=seconds,
        folder=folder,
        effective=parts.effective,
        test_loss=test_loss,
    )
