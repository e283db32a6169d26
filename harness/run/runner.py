"""Run a configuration: build, train, record and return the result. Only this module decides the status of a run."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from harness.config.compose import without_sweep_keys
from harness.config.schema import RunSettings
from harness.config.user_paths import make_overrides_absolute, make_paths_absolute
from harness.config.validation import validate_config
from harness.core import distributed
from harness.core.credentials import hide_credentials, write_traceback
from harness.core.distributed import ProcessGroup
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import ConfigError
from harness.core.events import Notice, RunEnd, RunStart
from harness.core.files import remove_leftovers
from harness.core.paths import TRACEBACK_FILE, project_dir
from harness.core.seeding import preserve_rng_state
from harness.core.shortage import ShortageError, describe_shortage
from harness.core.signals import hold_signals, stop_on_signals
from harness.core.state import TrainState
from harness.core.task import Task
from harness.observers.composite import CompositeObserver
from harness.observers.figures import FigureWriter
from harness.record.example_losses import copy_example_losses
from harness.run import base_model, initial_weights, provenance, resume, run_dir
from harness.run.build import RunParts, build_observers, build_parts, build_task
from harness.run.final_evaluation import draw_predictions, score_test_split
from harness.run.result import SHARED_FIELDS, BaseRunFailed, RunResult
from harness.run.unrecorded_end import complete_record
from harness.run.unseen_test import check_test_unseen
from harness.run.user_code import describe_error, explain_user_errors
from harness.tracking.store_uri import resolve_store_uri
from harness.tracking.upload_process import UploadProcess
from harness.training.checkpoint import WEIGHTS_FILE
from harness.training.checkpointer import Checkpointer
from harness.training.loop import Trainer
from harness.training.policies import Policy, Stop


def run(
    cfg: DictConfig,
    policies: Sequence[Policy] = (),
    *,
    folder: Path | None = None,
    probes: Sequence[float] = (),
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    overrides: Sequence[str] | None = None,
    notices: Sequence[str] = (),
) -> RunResult:
    """Train the model that `cfg` describes and record the run.

    Args:
        policies: Added to those of the configuration.
        folder: Holds the record; by default a new folder in `output_dir`.
        probes: Shares of the run at which it is evaluated in addition, without any effect on it.
        tags, params: Recorded in addition to the provenance and to the configuration.
        overrides: The overrides that `cfg` was composed from; with them the run can be reproduced.
        notices: Messages for the user about `cfg`.

    Raises:
        ConfigError: If the run cannot be built or `folder` already holds a run; nothing is written then.
        ShortageError: If there is no space left; a run that has taken a step is recorded as interrupted.
    """
    cfg, changed = make_paths_absolute(without_sweep_keys(cfg))
    settings = validate_config(cfg)
    if overrides is not None:
        overrides = tuple(map(hide_credentials, make_overrides_absolute(overrides, cfg, changed)))
    command = provenance.current_command() if overrides is None else provenance.format_command(overrides)
    processes = _join_processes(settings)
    processes.run_main_first(lambda: run_dir.check_unused(folder) if folder and processes.is_main else None)
    with distributed.use_cpu_threads(settings.device.threads), ExitStack() as stack:
        try:
            parts, start_info = _build_run(cfg, settings, processes)
        except (BaseRunFailed, resume.NoStepLeft) as error:
            return _end_without_training(error, cfg, processes)
        parts = replace(parts, plan=parts.plan.with_probes(probes))
        start_info = replace(start_info, notices=(*notices, *start_info.notices))
        observers = CompositeObserver(build_observers(cfg) if processes.is_main else [])
        processes.run_main_first(lambda: run_dir.check_free_space(settings, parts.state) if processes.is_main else None)
        stack.callback(observers.close)  # after signals are no longer held, since it waits for the upload
        is_held = stack.enter_context(hold_signals())
        run_folder = processes.run_main_first(
            lambda: run_dir.create_run_dir(cfg, settings, folder, parts.task, command) if processes.is_main else None
        )
        run_folder = processes.broadcast(run_folder)
        assert run_folder is not None
        stack.enter_context(run_dir.removed_unless_begun(run_folder, processes))
        start = _describe_start(run_folder, cfg, settings, parts, params or {})
        tags = {**_describe_run(command, parts, processes), **start_info.tags, **(tags or {})}
        start = replace(start, tags=tags, overrides=overrides or ())
        checkpointer = Checkpointer(start.folder / "checkpoints", processes, settings.loop.keep_checkpoints)
        return _train_and_record(start, parts, processes, checkpointer, observers, policies, start_info, is_held)


def _describe_start(
    folder: Path, cfg: DictConfig, settings: RunSettings, parts: RunParts, params: Mapping[str, str]
) -> RunStart:
    """Return the first event of a run, without its tags and overrides; `params` are those beyond `cfg`."""
    return RunStart(
        name=folder.name,
        folder=folder,
        total_steps=parts.plan.total_steps,
        log_every=settings.loop.log_every,
        params={**provenance.read_recorded_params(cfg), **params},
        effective=parts.effective,
        tags={},
        constants=parts.task.constants,
        dataset=parts.task.dataset,
    )


def _end_without_training(
    error: BaseRunFailed | resume.NoStepLeft, cfg: DictConfig, processes: ProcessGroup
) -> RunResult:
    """Return the result of a run whose base failed, or complete the record of one that died after its last step.

    Raises:
        NoStepLeft: If the record needs no completion.
    """
    if isinstance(error, BaseRunFailed):
        return error.result
    is_to_complete = processes.is_main and error.is_unchanged
    end = processes.broadcast(complete_record(error.folder) if is_to_complete else None)
    if end is None:
        raise error
    if processes.is_main:
        print(f"{error.folder}: all {end.step} steps were taken before it died; its record is completed")
        if "mlflow" in cfg.observers and (error.folder / "mlflow.json").exists():
            UploadProcess(error.folder, resolve_store_uri(cfg.tracking.uri)).close()
    shared = {name: getattr(end, name) for name in SHARED_FIELDS}
    return RunResult(**shared, folder=error.folder, effective=EffectiveSettings.from_json(error.recorded["effective"]))


def _describe_run(command: str, parts: RunParts, processes: ProcessGroup) -> Mapping[str, str]:
    """Return the tags of a run: its command, its data and its provenance."""
    about = provenance.collect_provenance(processes.device, project_dir())
    return {**about, "command": command, **{f"data.{key}": value for key, value in parts.task.dataset.items()}}


@contextmanager
def built_run(cfg: DictConfig) -> Iterator[tuple[RunSettings, RunParts, ProcessGroup]]:
    """Build a run of `cfg`, with its initial state and number of threads, without recording it.

    A missing base model is trained, in its own run. The states of the random generators are restored afterwards.

    Raises:
        ConfigError: If the run cannot be built.
        BaseRunFailed: If training the base model does not complete.
    """
    cfg = without_sweep_keys(cfg)
    settings = validate_config(cfg)
    processes = _join_processes(settings)
    with distributed.use_cpu_threads(settings.device.threads), preserve_rng_state():
        yield settings, _build_run(cfg, settings, processes)[0], processes


@dataclass(frozen=True)
class StartInfo:
    """Start of a run: messages, a table for start.txt, tags, and the best checkpoint of the run that it resumes."""

    is_resumed: bool = False
    notices: tuple[str, ...] = ()
    table: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    best: Path | None = None


@explain_user_errors
def _build_run(cfg: DictConfig, settings: RunSettings, processes: ProcessGroup) -> tuple[RunParts, StartInfo]:
    """Build the parts of a run and load its initial or resumed state."""
    resumed = resume.find_resume_point(settings)
    check_test_unseen(cfg, settings)
    task = build_task(cfg, settings, processes)
    match = _load_initial_weights(task, cfg, settings, processes)
    if resumed:
        resume.match_head_tying(resumed, task.model)
        parts = build_parts(cfg, settings, processes, task, resumed.schedule_start_step(settings, task))
        restored = resume.restore_run(resumed, parts, provenance.read_recorded_params(cfg), processes)
        if processes.is_main:
            resume.remove_drafts(resumed.folder)
        notices, table = tuple(resume.describe_resume(resumed, restored)), resume.format_changes(restored.changes)
        return restored.parts, StartInfo(True, notices, table, resume.resume_tags(resumed), restored.best)
    parts = build_parts(cfg, settings, processes, task)
    if match is None:
        return parts, StartInfo()
    return parts, StartInfo(False, (match.describe(settings.start.source),), match.format_table())


def _train_and_record(
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
    folder, state, started_at, shortage = start.folder, parts.state, time.perf_counter(), ""
    test_loss: float | None = None
    if start_info.table and processes.is_main:
        (folder / "start.txt").write_text(start_info.table + "\n")
    processes.run_main_first(lambda: emit(start))

    def save(state: TrainState, is_best: bool) -> None:
        processes.run_main_first(emit.flush)  # a run that resumes from this checkpoint records nothing before it
        checkpointer.save(state, is_best)

    for notice in (*parts.notices, *start_info.notices):
        emit(Notice(notice))
    try:
        with stop_on_signals() as is_stopping:
            if start_info.is_resumed:  # after the record has begun: only a run with a record can be resumed
                _save_resumed_start(start_info.best, state, checkpointer, folder)
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
            )
            stop = trainer.train()
            if parts.test_task and stop.status == "completed":
                test_loss = score_test_split(parts.test_task, state, parts.plan, processes, checkpointer.folder, emit)
    except KeyboardInterrupt:
        stop = Stop("interrupted", "stopped by a second signal")
    except Exception as error:
        shortage = describe_shortage(error, folder)
        stop = Stop("interrupted", shortage) if shortage else _fail(error, folder, processes)
    if stop.status == "completed" and any(isinstance(observer, FigureWriter) for observer in emit.observers):
        draw_predictions(parts.task, folder, emit)
    result = _make_result(stop, parts, folder, time.perf_counter() - started_at, test_loss)
    shortage = _end_record(result, emit) or shortage
    if shortage:
        if processes.is_main and not remove_leftovers(checkpointer.folder):
            emit.close()  # with too many open files, a folder can be read again only once the record is closed
            remove_leftovers(checkpointer.folder)
        raise ShortageError(f"{shortage} after step {state.step}")
    return result


def _fail(error: Exception, folder: Path, processes: ProcessGroup) -> Stop:
    """Write the traceback, and leave the other processes, which may not have this error."""
    distributed.abandon_process_group()
    write_traceback(folder / f"{processes.rank or ''}{TRACEBACK_FILE}", error)
    return Stop("failed", describe_error(error))


def _save_resumed_start(best: Path | None, state: TrainState, checkpointer: Checkpointer, folder: Path) -> None:
    checkpointer.save_resumed_start(state, best)
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


def _load_initial_weights(
    task: Task, cfg: DictConfig, settings: RunSettings, processes: ProcessGroup
) -> initial_weights.WeightMatch | None:
    """Load the weights that `start.source` names, if any; an `experiment=` is trained first unless it is cached."""
    source = settings.start.source
    if source is None:
        return None
    experiment = initial_weights.parse_base_experiment(source)
    if experiment:
        weights = _get_base_weights(experiment, cfg, settings, processes)
        return initial_weights.load_matching_weights(task.model, weights)
    return initial_weights.load_warm_start(task.model, source, settings)


def _get_base_weights(
    experiment: str, cfg: DictConfig, settings: RunSettings, processes: ProcessGroup
) -> dict[str, Tensor]:
    """Return the best weights of `experiment` with this run's model and tokenizer."""
    base = base_model.compose_base_config(experiment, cfg)

    def train_base() -> Path:
        # find errors in the run itself before minutes are spent on its base model
        build_parts(cfg, settings, processes, build_task(cfg, settings, processes))
        build_observers(cfg)
        base_model.announce_training(base, cfg)
        result = run(base, overrides=[f"experiment={experiment}"])
        if result.status != "completed":
            raise BaseRunFailed(result)
        return result.folder / "checkpoints" / "best" / WEIGHTS_FILE

    return base_model.get_base_weights(base, settings.cache_dir, processes, train_base)


def _join_processes(settings: RunSettings) -> ProcessGroup:
    try:
        return distributed.join_process_group(distributed.select_device(settings.device.kind))
    except ValueError as error:
        raise ConfigError(f"device.kind: {error}") from error
