"""Run a configuration: build it, or restore what is resumed or continued, then train, record and return the result."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from harness.config.compose import without_sweep_keys
from harness.config.schema import RunSettings
from harness.config.user_paths import make_overrides_absolute, make_paths_absolute
from harness.config.validation import validate_config
from harness.core import distributed
from harness.core.credentials import hide_credentials
from harness.core.distributed import ProcessGroup
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import ConfigError
from harness.core.events import RunStart
from harness.core.paths import project_dir
from harness.core.seeding import preserve_rng_state
from harness.core.signals import hold_signals
from harness.core.task import Task
from harness.observers.composite import CompositeObserver
from harness.run import base_model, initial_weights, provenance, resume, run_dir
from harness.run.build import RunParts, build_observers, build_parts, build_task
from harness.run.continuation import Continuation, find_continuation, restore_parts
from harness.run.recorded_training import StartInfo, train_and_record
from harness.run.result import SHARED_FIELDS, BaseRunFailed, RunResult
from harness.run.unrecorded_end import complete_record
from harness.run.unseen_test import check_test_unseen
from harness.run.user_code import explain_user_errors
from harness.tracking.store_uri import resolve_store_uri
from harness.tracking.upload_process import UploadProcess
from harness.training.checkpoint import WEIGHTS_FILE
from harness.training.checkpointer import Checkpointer
from harness.training.policies import Policy


def run(
    cfg: DictConfig,
    policies: Sequence[Policy] = (),
    *,
    folder: Path | None = None,
    probes: Sequence[float] = (),
    is_continued: bool = False,
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
        is_continued: Continue the run in `folder`, with the same settings, from its last intact checkpoint.
        tags, params: Recorded in addition to the provenance and to the configuration.
        overrides: The overrides that `cfg` was composed from; with them the run can be reproduced.
        notices: Messages for the user about `cfg`.

    Raises:
        ConfigError: If the run cannot be built or `folder` already holds a run; nothing is written then.
        CannotContinue: If nothing intact is left to continue from; `clear_run_dir` empties the folder to start over.
        ShortageError: If there is no space left; a run that has taken a step is recorded as interrupted.
    """
    cfg, changed = make_paths_absolute(without_sweep_keys(cfg))
    settings = validate_config(cfg)
    if overrides is not None:
        overrides = tuple(map(hide_credentials, make_overrides_absolute(overrides, cfg, changed)))
    command = provenance.current_command() if overrides is None else provenance.format_command(overrides)
    processes, past = _join_processes(settings), None
    continued = _find_continuation(folder, processes) if is_continued else None
    if isinstance(continued, RunResult):  # it has ended
        return continued
    if not continued:
        processes.run_main_first(lambda: run_dir.check_unused(folder) if folder and processes.is_main else None)
    with distributed.use_cpu_threads(settings.device.threads), ExitStack() as stack:
        try:
            parts, start_info = _build_run(cfg, settings, processes, continued)
        except (BaseRunFailed, resume.NoStepLeft) as error:
            return _end_without_training(error, cfg, processes)
        parts = replace(parts, plan=parts.plan.with_probes(probes))
        start_info = _add_notices(start_info, (*parts.notices, *notices))
        observers = CompositeObserver(build_observers(cfg) if processes.is_main else [])
        processes.run_main_first(lambda: run_dir.check_free_space(settings, parts.state) if processes.is_main else None)
        stack.callback(observers.close)  # after signals are no longer held, since it waits for the upload
        is_held = stack.enter_context(hold_signals())
        if continued:
            run_folder, past = continued.folder, continued.past
        else:
            run_folder = _create_run_dir(cfg, settings, folder, parts, command, processes)
            stack.enter_context(run_dir.removed_unless_begun(run_folder, processes))
        tags = {**_describe_run(command, parts, processes), **start_info.tags, **(tags or {})}
        start = _describe_start(run_folder, cfg, settings, parts, params or {})
        start = replace(start, tags=tags, overrides=overrides or (), past=past)
        checkpointer = _make_checkpointer(run_folder, settings, parts, processes)
        return train_and_record(start, parts, processes, checkpointer, observers, policies, start_info, is_held)


def _add_notices(start_info: StartInfo, notices: Sequence[str]) -> StartInfo:
    """Put the notices before those of the start, unless the record of a continued run has them."""
    return start_info if start_info.continued else replace(start_info, notices=(*notices, *start_info.notices))


def _make_checkpointer(folder: Path, settings: RunSettings, parts: RunParts, processes: ProcessGroup) -> Checkpointer:
    keep, is_planned = settings.loop.keep_checkpoints, parts.plan.plans_checkpoint
    return Checkpointer(folder / "checkpoints", processes, keep, is_planned)


def _find_continuation(folder: Path | None, processes: ProcessGroup) -> Continuation | RunResult:
    if folder is None:
        raise ValueError("is_continued: needs the folder of the run")
    return processes.run_main_first(lambda: find_continuation(folder.absolute()))


def _create_run_dir(
    cfg: DictConfig, settings: RunSettings, folder: Path | None, parts: RunParts, command: str, processes: ProcessGroup
) -> Path:
    created = processes.run_main_first(
        lambda: run_dir.create_run_dir(cfg, settings, folder, parts.task, command) if processes.is_main else None
    )
    created = processes.broadcast(created)
    assert created is not None
    return created


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


@explain_user_errors
def _build_run(
    cfg: DictConfig, settings: RunSettings, processes: ProcessGroup, continued: Continuation | None = None
) -> tuple[RunParts, StartInfo]:
    """Build the parts of a run and load its initial, resumed or continued state."""
    if continued:
        task = build_task(cfg, settings, processes)
        resume.match_head_tying(continued.checkpoint, task.model)
        parts = build_parts(cfg, settings, processes, task, continued.counters["schedule_start_step"])
        parts, notices = restore_parts(continued, parts, provenance.read_recorded_params(cfg), processes)
        return parts, StartInfo(notices=notices, continued=continued)
    resumed = resume.find_resume_point(settings)
    check_test_unseen(cfg, settings)
    task = build_task(cfg, settings, processes)
    match = _load_initial_weights(task, cfg, settings, processes)
    if resumed:
        resume.match_head_tying(resumed.checkpoint, task.model)
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
