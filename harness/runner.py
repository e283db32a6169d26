"""One run from its configuration to its result; here, and nowhere else, a status is decided."""

import hashlib
import platform
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from harness import processes, provenance, starts
from harness.build import Parts, build, build_observers, build_task, make
from harness.checkpoint import Checkpointer, load_weights
from harness.config import ConfigError, Settings, compose, validate
from harness.events import Event, Notice, Observer, RunEnd, RunStart, Status
from harness.loop import train
from harness.policies import Policy, Stop
from harness.processes import World
from harness.task import Task

SHARED_WITH_BASE = ("model", "tokenizer", "device", "observers", "tracking", "output_dir", "cache_dir", "seed")
"""The choices a base takes over from the run that needs it."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `reason` is empty only for a completed one."""

    status: Status
    reason: str
    best_val_loss: float
    best_step: int
    folder: Path


def run(cfg: DictConfig, policies: Sequence[Policy] = ()) -> RunResult:
    """Train what `cfg` says, recorded; ConfigError, with nothing written, for what cannot be built."""
    settings = validate(cfg)
    world = _join(settings)
    if settings.device.threads:
        torch.set_num_threads(settings.device.threads)
    task = build_task(cfg, settings, world)
    match = _warm_up(task, cfg, settings, world)
    parts = build(cfg, settings, world, task)
    observers = build_observers(cfg) if world.is_main else []
    folder = world.from_main(_make_folder(cfg, settings) if world.is_main else None)
    notices = [*parts.notices, *([f"weights from {settings.start.source}: {match.table()}"] if match else [])]
    return _train(cfg, parts, world, folder, observers, policies, notices)


def _train(
    cfg: DictConfig,
    parts: Parts,
    world: World,
    folder: Path,
    observers: list[Observer],
    policies: Sequence[Policy],
    notices: list[str],
) -> RunResult:
    def emit(event: Event) -> None:
        for observer in observers:
            observer(event)

    began_at = time.perf_counter()
    emit(_run_start(cfg, parts, world, folder))
    for notice in notices:
        emit(Notice(notice))
    state = parts.state
    with stop_on_signals() as is_stopping:
        try:
            stop = train(
                parts.task,
                state,
                parts.plan,
                world,
                policies=(*parts.policies, *policies),
                emit=emit,
                save=Checkpointer(folder / "checkpoints") if world.is_main else lambda state, kind: None,
                is_stopping=is_stopping,
            )
        except KeyboardInterrupt:
            stop = Stop("interrupted", "stopped at once by a second signal")
        except Exception as error:
            (folder / "error.txt").write_text(traceback.format_exc())
            stop = Stop("failed", f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - began_at
    best = (state.best_val_loss, state.best_step)
    emit(RunEnd(stop.status, stop.reason, state.step, state.tokens, seconds, *best, _artifacts(folder)))
    for observer in observers:
        observer.close()
    return RunResult(stop.status, stop.reason, *best, folder)


def _run_start(cfg: DictConfig, parts: Parts, world: World, folder: Path) -> RunStart:
    return RunStart(
        name=folder.name,
        folder=folder,
        total_steps=parts.plan.total_steps,
        log_every=cfg.loop.log_every,
        params={**_dotted(OmegaConf.to_container(cfg, resolve=True)), **parts.effective},
        tags=provenance.tags(world.device) if world.is_main else {},
        constants=parts.task.constants,
        dataset=parts.task.dataset,
    )


def _warm_up(task: Task, cfg: DictConfig, settings: Settings, world: World) -> starts.Match | None:
    """Load the weights to start from, if any; an `experiment=` is trained first where it has not been."""
    source = settings.start.source
    if source is None:
        return None
    experiment = starts.base_name(source)
    if experiment:
        return starts.load_into(task.model, _base(experiment, cfg, settings, world))
    return starts.start_warm(task.model, source, settings, world)


def _base(experiment: str, cfg: DictConfig, settings: Settings, world: World) -> dict[str, Tensor]:
    """The best weights of `experiment` with this run's model and tokenizer: trained once, a run of its own."""
    base = compose([f"experiment={experiment}"])
    with open_dict(base):
        for key in SHARED_WITH_BASE:
            base[key] = cfg[key]
    cached = settings.cache_dir / "bases" / _digest(base) / "model.safetensors"
    if not world.from_main(cached.exists()):
        result = run(base)
        if result.status != "completed":
            raise RuntimeError(f"the base, {result.folder.name}, ended {result.status}: {result.reason}")
        if world.is_main:
            _copy_whole(result.folder / "checkpoints" / "best" / "model.safetensors", cached)
        world.wait()
    return load_weights(cached)


def _digest(cfg: DictConfig) -> str:
    """Of all that decides the weights: settings, the data source, the versions that change bits."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    decisive = {key: value for key, value in resolved.items() if key not in ("observers", "tracking", "output_dir",
                "cache_dir", "name", "device")}  # fmt: skip
    source = make(cfg.data, "source").fingerprint() if "source" in cfg.data else ""
    text = f"{sorted(decisive.items())}{source}{torch.__version__}{platform.python_version()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _copy_whole(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    shutil.copyfile(source, partial)
    partial.rename(target)


def _join(settings: Settings) -> World:
    try:
        return processes.join(processes.pick_device(settings.device.kind))
    except ValueError as error:
        raise ConfigError(f"device.kind: {error}") from error


def _make_folder(cfg: DictConfig, settings: Settings) -> Path:
    """A folder no run had, named by the instant and the choices, with the resolved configuration in it."""
    choices = (cfg.optimizer._target_, cfg.schedule._target_)
    name = cfg.name or "-".join(target.rpartition(".")[2].lower() for target in choices)
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{name}"
    for attempt in range(1000):
        folder = settings.output_dir / (f"{stem}_{attempt}" if attempt else stem)
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    (folder / "command.txt").write_text(provenance.command() + "\n")
    if diff := provenance.diff():
        (folder / "diff.patch").write_text(diff)
    return folder


def _artifacts(folder: Path) -> tuple[Path, ...]:
    names = ("config.yaml", "command.txt", "diff.patch", "error.txt")
    return tuple(folder / name for name in names if (folder / name).exists())


def _dotted(node: object, key: str = "") -> dict[str, str]:
    if not isinstance(node, dict) or not node:
        return {key: str(node)}
    children = [_dotted(child, f"{key}.{name}" if key else name) for name, child in node.items()]
    return {name: value for child in children for name, value in child.items()}


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM ask the loop to stop after the step under way; a second SIGINT stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
