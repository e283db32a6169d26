"""One run from its configuration to its result; here, and nowhere else, a status is decided."""

import hashlib
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from harness.config.compose import NON_TRAINING_KEYS, compose_config, flatten_config, without_sweep_keys
from harness.config.schema import RunSettings
from harness.config.validation import validate_config
from harness.core import distributed
from harness.core.distributed import ProcessGroup, stop_on_signals
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import ConfigError
from harness.core.events import Event, Notice, Observer, RunEnd, RunStart, Status
from harness.core.files import open_atomically
from harness.core.paths import project_dir
from harness.core.seeding import preserve_rng_state
from harness.core.task import Task
from harness.data.cache import ensure_cached
from harness.observers.composite import CompositeObserver
from harness.observers.figures import FigureWriter
from harness.run import initial_weights, provenance, resume, run_dir
from harness.run.build import RunParts, build_observers, build_parts, build_task, instantiate_component
from harness.tracking.store_uri import hide_credentials
from harness.training.checkpoint import WEIGHTS_FILE, Checkpointer, load_weights
from harness.training.loop import Trainer
from harness.training.policies import Policy, Stop

SHARED_WITH_BASE = ("model", "tokenizer", "device", "observers", "tracking", "output_dir", "cache_dir")
"""The choices a base takes over from the run that needs it; not the seed, so that fresh seeds share one base."""


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    `reason` is empty only for a completed run. If the base that the run starts from failed, the result is that of the
    base, and `effective` is None.
    """

    status: Status
    reason: str
    best_val_loss: float
    best_step: int
    step: int
    tokens: int
    seconds: float
    folder: Path
    effective: EffectiveSettings | None


class BaseRunFailed(Exception):
    """The base that a run was to start from came to no good end."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(f"{result.status}: {result.reason}")
        self.result = replace(result, reason=f"its base, {result.folder.name}: {result.reason}", effective=None)


def run(
    cfg: DictConfig,
    policies: Sequence[Policy] = (),
    *,
    folder: Path | None = None,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    overrides: Sequence[str] | None = None,
) -> RunResult:
    """Train what `cfg` says, recorded in `folder`, by default a new one in `output_dir`, with `tags` and `params`
    beside its own; ConfigError, with nothing written, for what cannot be built and for a folder that holds a run."""
    cfg = without_sweep_keys(cfg)
    settings = validate_config(cfg)
    overrides = None if overrides is None else tuple(map(hide_credentials, overrides))
    command = provenance.current_command() if overrides is None else provenance.format_command(overrides)
    world = _join_processes(settings)
    world.run_main_first(lambda: run_dir.check_unused(folder) if folder and world.is_main else None)
    with distributed.use_cpu_threads(settings.device.threads):
        try:
            parts, origin = _build_run(cfg, settings, world)
        except BaseRunFailed as ended:
            return ended.result
        observers = build_observers(cfg) if world.is_main else []
        chosen = world.run_main_first(
            lambda: run_dir.create_run_dir(cfg, settings, folder, parts.task, command) if world.is_main else None
        )
        start = _make_run_start(cfg, parts, world, world.broadcast(chosen))
        start = replace(
            start,
            tags={"command": command, **start.tags, **origin.tags, **(tags or {})},
            params={**start.params, **(params or {})},
            overrides=overrides or (),
        )
        if origin.table and world.is_main:
            (start.folder / "start.txt").write_text(origin.table + "\n")
        checkpointer = Checkpointer(start.folder / "checkpoints", world, settings.loop.keep_checkpoints)
        if settings.start.kind == "resume":
            checkpointer.save_resumed_start(parts.state, origin.best)
        return _train_and_record(
            start, parts, world, checkpointer, observers, policies, [*parts.notices, *origin.notices]
        )


@contextmanager
def built_run(cfg: DictConfig) -> Iterator[tuple[RunSettings, RunParts, ProcessGroup]]:
    """The parts of a run of `cfg` at the state it starts from, in its threads; no generator is moved for good.

    ConfigError for what a run would refuse. A base that is missing is trained, a run of its own; BaseEnded unless
    that completes."""
    cfg = without_sweep_keys(cfg)
    settings = validate_config(cfg)
    world = _join_processes(settings)
    with distributed.use_cpu_threads(settings.device.threads), preserve_rng_state():
        yield settings, _build_run(cfg, settings, world)[0], world


@dataclass(frozen=True)
class StartInfo:
    """Where a run's weights come from, as far as it is worth telling; a table for its folder, tags for its record, the
    checkpoint of the best so far."""

    notices: tuple[str, ...] = ()
    table: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    best: Path | None = None


def _build_run(cfg: DictConfig, settings: RunSettings, world: ProcessGroup) -> tuple[RunParts, StartInfo]:
    """The parts of a run, at the state it starts from."""
    resumed = resume.find_resume_point(settings)
    task = build_task(cfg, settings, world)
    match = _load_initial_weights(task, cfg, settings, world)
    if resumed:
        resume.match_head_tying(resumed, task.model)
        parts = build_parts(cfg, settings, world, task, resumed.schedule_start_step(settings, task))
        gone_on = resume.restore_run(resumed, parts, _flatten_params(cfg), world)
        told = tuple(resume.describe_resume(resumed, gone_on))
        return gone_on.parts, StartInfo(
            told, resume.format_changes(gone_on.changes), resume.resume_tags(resumed), gone_on.best
        )
    parts = build_parts(cfg, settings, world, task)
    return parts, StartInfo(
        tuple(_describe_match(match, settings.start.source)), match.format_table()
    ) if match else StartInfo()


def _train_and_record(
    start: RunStart,
    parts: RunParts,
    world: ProcessGroup,
    checkpointer: Checkpointer,
    observers: list[Observer],
    policies: Sequence[Policy],
    notices: list[str],
) -> RunResult:
    folder, state, emit, began_at = start.folder, parts.state, CompositeObserver(observers), time.perf_counter()
    emit(start)
    for notice in notices:
        emit(Notice(notice))
    with stop_on_signals() as is_stopping:
        try:
            chosen = (*parts.policies, *policies)
            trainer = Trainer(
                parts.task,
                state,
                parts.plan,
                world,
                policies=chosen,
                emit=emit,
                save=checkpointer.save,
                restore_before=checkpointer.restore_before,
                is_stopping=is_stopping,
            )
            stop = trainer.train()
        except KeyboardInterrupt:
            stop = Stop("interrupted", "stopped at once by a second signal")
        except Exception as error:
            stop = Stop("failed", f"{type(error).__name__}: {error}")
            with suppress(OSError):  # a full disk may be the very reason
                (folder / f"error{world.rank or ''}.txt").write_text(traceback.format_exc())
    if stop.status == "completed" and any(isinstance(observer, FigureWriter) for observer in observers):
        _draw_predictions(parts.task, folder, emit)
    best, spent = (state.best_val_loss, state.best_step), (state.step, state.tokens, time.perf_counter() - began_at)
    emit(RunEnd(stop.status, stop.reason, *spent, *best, run_dir.list_description_files(folder)))
    emit.close()
    return RunResult(stop.status, stop.reason, *best, *spent, folder, parts.effective)


def _draw_predictions(task: Task, folder: Path, emit: Callable[[Event], None]) -> None:
    """Pictures of what the model makes of held-out examples, where the task draws some."""
    if hasattr(task, "save_figures"):
        try:
            task.save_figures(folder / "figures")
        except Exception as error:  # a picture is never worth a run
            emit(Notice(f"no pictures of the task: {type(error).__name__}: {error}"))


def _make_run_start(cfg: DictConfig, parts: RunParts, world: ProcessGroup, folder: Path) -> RunStart:
    return RunStart(
        name=folder.name,
        folder=folder,
        total_steps=parts.plan.total_steps,
        log_every=cfg.loop.log_every,
        params=_flatten_params(cfg),
        effective=parts.effective,
        tags={
            **provenance.collect_provenance(world.device, project_dir()),
            "data.digest": parts.task.dataset["digest"],
        },
        constants=parts.task.constants,
        dataset=parts.task.dataset,
    )


def _flatten_params(cfg: DictConfig) -> dict[str, str]:
    return flatten_config(OmegaConf.to_container(cfg, resolve=True))


def _load_initial_weights(
    task: Task, cfg: DictConfig, settings: RunSettings, world: ProcessGroup
) -> initial_weights.WeightMatch | None:
    """Load the weights to start from, if any; an `experiment=` is trained first where it has not been."""
    source = settings.start.source
    if source is None:
        return None
    experiment = initial_weights.parse_base_experiment(source)
    if experiment:
        return initial_weights.load_matching_weights(task.model, _get_base_weights(experiment, cfg, settings, world))
    return initial_weights.load_warm_start(task.model, source, settings)


def _describe_match(match: initial_weights.WeightMatch, source: str) -> list[str]:
    """A line where everything fits, the table where it does not; start.txt in the run's folder has the table."""
    return [
        f"weights from {source}: {match.summarize()}"
        if match.is_complete
        else f"weights from {source}:\n{match.format_table()}"
    ]


def _get_base_weights(
    experiment: str, cfg: DictConfig, settings: RunSettings, world: ProcessGroup
) -> dict[str, Tensor]:
    """The best weights of `experiment` with this run's model and tokenizer: trained once, a run of its own."""
    base = without_sweep_keys(compose_config([f"experiment={experiment}"]))
    with open_dict(base):
        for key in SHARED_WITH_BASE:
            base[key] = cfg[key]
    folder = settings.cache_dir / "bases" / _hash_base_config(base)
    if not world.broadcast((folder / WEIGHTS_FILE).exists()):
        build_parts(
            cfg, settings, world, build_task(cfg, settings, world)
        )  # what cannot be built is refused before minutes
        build_observers(cfg)  # are spent on its base
        if world.size == 1:
            ensure_cached(folder, lambda draft: _store_weights(_train_base(base, experiment), draft))
        else:
            trained = _train_base(base, experiment)
            world.run_main_first(lambda: _store_weights(trained, folder) if world.is_main else None)
    return load_weights(folder / WEIGHTS_FILE)


def _train_base(base: DictConfig, experiment: str) -> Path:
    """The weights' file of a run of `base`; BaseEnded unless it completed."""
    result = run(base, overrides=[f"experiment={experiment}"])
    if result.status != "completed":
        raise BaseRunFailed(result)
    return result.folder / "checkpoints" / "best" / WEIGHTS_FILE


def _store_weights(weights: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with weights.open("rb") as source, open_atomically(folder / WEIGHTS_FILE) as target:
        shutil.copyfileobj(source, target)


def _hash_base_config(cfg: DictConfig) -> str:
    """Of all that decides the weights: settings, the data source, the versions that change bits."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    decisive = {key: value for key, value in resolved.items() if key not in (*NON_TRAINING_KEYS, "device", "compile")}
    decisive["model"].pop("gradient_checkpointing", None)
    source = instantiate_component(cfg.data, "source").fingerprint() if "source" in cfg.data else ""
    text = f"{sorted(decisive.items())}{source}{torch.__version__}{platform.python_version()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _join_processes(settings: RunSettings) -> ProcessGroup:
    try:
        return distributed.join_process_group(distributed.select_device(settings.device.kind))
    except ValueError as error:
        raise ConfigError(f"device.kind: {error}") from error
