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

from harness.config.errors import ConfigError
from harness.config.schema import IDLE, Settings, compose, dotted, run_part, validate
from harness.core import distributed
from harness.core.distributed import World, stop_on_signals
from harness.core.events import Event, Notice, Observer, RunEnd, RunStart, Status
from harness.core.seeding import preserved_rng
from harness.core.task import Task
from harness.data.cache import cached
from harness.observers.composite import Broadcast
from harness.observers.figures import Figures
from harness.run import initial_weights, provenance, resume, run_dir
from harness.run.build import Parts, build, build_observers, build_task, make
from harness.training.checkpoint import WEIGHTS, Checkpointer, load_weights
from harness.training.loop import train
from harness.training.policies import Policy, Stop

SHARED_WITH_BASE = ("model", "tokenizer", "device", "observers", "tracking", "output_dir", "cache_dir")
"""The choices a base takes over from the run that needs it; not the seed, so that fresh seeds share one base."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `reason` is empty only for a completed one; where its base failed, all is the base's but
    `effective`, the parameters in force, which is empty."""

    status: Status
    reason: str
    best_val_loss: float
    best_step: int
    step: int
    tokens: int
    seconds: float
    folder: Path
    effective: Mapping[str, str]


class BaseEnded(Exception):
    """The base that a run was to start from came to no good end."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(f"{result.status}: {result.reason}")
        self.result = replace(result, reason=f"its base, {result.folder.name}: {result.reason}", effective={})


def run(
    cfg: DictConfig,
    policies: Sequence[Policy] = (),
    *,
    folder: Path | None = None,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
) -> RunResult:
    """Train what `cfg` says, recorded in `folder`, by default a new one in `output_dir`, with `tags` and `params`
    beside its own; ConfigError, with nothing written, for what cannot be built and for a folder that holds a run."""
    cfg = run_part(cfg)
    settings = validate(cfg)
    world = _join(settings)
    world.main_first(lambda: run_dir.refuse_used(folder) if folder and world.is_main else None)
    with distributed.threads(settings.device.threads):
        try:
            parts, origin = _assemble(cfg, settings, world)
        except BaseEnded as ended:
            return ended.result
        observers = build_observers(cfg) if world.is_main else []
        chosen = world.main_first(lambda: run_dir.make(cfg, settings, folder, parts.task) if world.is_main else None)
        start = _run_start(cfg, parts, world, world.from_main(chosen))
        tags = {**start.tags, **origin.tags, **(tags or {})}
        start = replace(start, tags=tags, params={**start.params, **(params or {})})
        if origin.table and world.is_main:
            (start.folder / "start.txt").write_text(origin.table + "\n")
        checkpointer = Checkpointer(start.folder / "checkpoints", world, settings.loop.keep_checkpoints)
        if settings.start.kind == "resume":
            checkpointer.begin_with(parts.state, origin.best)
        return _train(start, parts, world, checkpointer, observers, policies, [*parts.notices, *origin.notices])


@contextmanager
def assembled(cfg: DictConfig) -> Iterator[tuple[Settings, Parts, World]]:
    """The parts of a run of `cfg` at the state it starts from, in its threads; no generator is moved for good.

    ConfigError for what a run would refuse. A base that is missing is trained, a run of its own; BaseEnded unless
    that completes."""
    cfg = run_part(cfg)
    settings = validate(cfg)
    world = _join(settings)
    with distributed.threads(settings.device.threads), preserved_rng():
        yield settings, _assemble(cfg, settings, world)[0], world


@dataclass(frozen=True)
class Origin:
    """Where a run's weights come from, as far as it is worth telling; a table for its folder, tags for its record, the
    checkpoint of the best so far."""

    notices: tuple[str, ...] = ()
    table: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    best: Path | None = None


def _assemble(cfg: DictConfig, settings: Settings, world: World) -> tuple[Parts, Origin]:
    """The parts of a run, at the state it starts from."""
    resumed = resume.locate(settings)
    task = build_task(cfg, settings, world)
    match = _warm_up(task, cfg, settings, world)
    if resumed:
        resume.untie(resumed, task.model)
        parts = build(cfg, settings, world, task, resumed.leg_step(settings, task))
        gone_on = resume.go_on(resumed, parts, _params(cfg, parts), world)
        told = tuple(resume.told(resumed, gone_on))
        return gone_on.parts, Origin(told, resume.table(gone_on.changes), resume.tags(resumed), gone_on.best)
    parts = build(cfg, settings, world, task)
    return parts, Origin(tuple(_told(match, settings.start.source)), match.table()) if match else Origin()


def _train(
    start: RunStart,
    parts: Parts,
    world: World,
    checkpointer: Checkpointer,
    observers: list[Observer],
    policies: Sequence[Policy],
    notices: list[str],
) -> RunResult:
    folder, state, emit, began_at = start.folder, parts.state, Broadcast(observers), time.perf_counter()
    emit(start)
    for notice in notices:
        emit(Notice(notice))
    with stop_on_signals() as is_stopping:
        try:
            chosen = (*parts.policies, *policies)
            stop = train(
                parts.task,
                state,
                parts.plan,
                world,
                policies=chosen,
                emit=emit,
                save=checkpointer.save,
                go_back=checkpointer.go_back,
                is_stopping=is_stopping,
            )
        except KeyboardInterrupt:
            stop = Stop("interrupted", "stopped at once by a second signal")
        except Exception as error:
            stop = Stop("failed", f"{type(error).__name__}: {error}")
            with suppress(OSError):  # a full disk may be the very reason
                (folder / f"error{world.rank or ''}.txt").write_text(traceback.format_exc())
    if stop.status == "completed" and any(isinstance(observer, Figures) for observer in observers):
        _illustrate(parts.task, folder, emit)
    best, spent = (state.best_val_loss, state.best_step), (state.step, state.tokens, time.perf_counter() - began_at)
    emit(RunEnd(stop.status, stop.reason, *spent, *best, run_dir.described(folder)))
    emit.close()
    return RunResult(stop.status, stop.reason, *best, *spent, folder, parts.effective)


def _illustrate(task: Task, folder: Path, emit: Callable[[Event], None]) -> None:
    """Pictures of what the model makes of held-out examples, where the task draws some."""
    if hasattr(task, "illustrate"):
        try:
            task.illustrate(folder / "figures")
        except Exception as error:  # a picture is never worth a run
            emit(Notice(f"no pictures of the task: {type(error).__name__}: {error}"))


def _run_start(cfg: DictConfig, parts: Parts, world: World, folder: Path) -> RunStart:
    return RunStart(
        name=folder.name,
        folder=folder,
        total_steps=parts.plan.total_steps,
        log_every=cfg.loop.log_every,
        params=_params(cfg, parts),
        tags={**provenance.tags(world.device), "data.digest": parts.task.dataset["digest"]},
        constants=parts.task.constants,
        dataset=parts.task.dataset,
    )


def _params(cfg: DictConfig, parts: Parts) -> dict[str, str]:
    """What was asked for and what is in force."""
    return {**dotted(OmegaConf.to_container(cfg, resolve=True)), **parts.effective}


def _warm_up(task: Task, cfg: DictConfig, settings: Settings, world: World) -> initial_weights.Match | None:
    """Load the weights to start from, if any; an `experiment=` is trained first where it has not been."""
    source = settings.start.source
    if source is None:
        return None
    experiment = initial_weights.base_name(source)
    if experiment:
        return initial_weights.load_into(task.model, _base(experiment, cfg, settings, world))
    return initial_weights.start_warm(task.model, source, settings)


def _told(match: initial_weights.Match, source: str) -> list[str]:
    """A line where everything fits, the table where it does not; start.txt in the run's folder has the table."""
    return [
        f"weights from {source}: {match.summary()}" if match.is_whole else f"weights from {source}:\n{match.table()}"
    ]


def _base(experiment: str, cfg: DictConfig, settings: Settings, world: World) -> dict[str, Tensor]:
    """The best weights of `experiment` with this run's model and tokenizer: trained once, a run of its own."""
    base = run_part(compose([f"experiment={experiment}"]))
    with open_dict(base):
        for key in SHARED_WITH_BASE:
            base[key] = cfg[key]
    folder = settings.cache_dir / "bases" / _digest(base)
    if not world.from_main((folder / WEIGHTS).exists()):
        build(cfg, settings, world, build_task(cfg, settings, world))  # what cannot be built is refused before minutes
        build_observers(cfg)  # are spent on its base
        if world.size == 1:
            cached(folder, lambda draft: _keep(_train_base(base), draft))
        else:
            trained = _train_base(base)
            world.main_first(lambda: _keep(trained, folder) if world.is_main else None)
    return load_weights(folder / WEIGHTS)


def _train_base(base: DictConfig) -> Path:
    """The weights' file of a run of `base`; BaseEnded unless it completed."""
    result = run(base)
    if result.status != "completed":
        raise BaseEnded(result)
    return result.folder / "checkpoints" / "best" / WEIGHTS


def _keep(weights: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS}.partial"
    shutil.copyfile(weights, partial)
    partial.rename(folder / WEIGHTS)


def _digest(cfg: DictConfig) -> str:
    """Of all that decides the weights: settings, the data source, the versions that change bits."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    decisive = {key: value for key, value in resolved.items() if key not in (*IDLE, "device", "compile")}
    decisive["model"].pop("gradient_checkpointing", None)
    source = make(cfg.data, "source").fingerprint() if "source" in cfg.data else ""
    text = f"{sorted(decisive.items())}{source}{torch.__version__}{platform.python_version()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _join(settings: Settings) -> World:
    try:
        return distributed.join(distributed.pick_device(settings.device.kind))
    except ValueError as error:
        raise ConfigError(f"device.kind: {error}") from error
