"""Build the parts of a run from its configuration. Only this module instantiates components."""

import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from harness.config.compose import to_plain_dict
from harness.config.interfaces import check_interface
from harness.config.schema import RunSettings
from harness.config.targets import build_component
from harness.core.distributed import ProcessGroup
from harness.core.effective_settings import EffectiveSettings, Value
from harness.core.errors import ConfigError, SettingError
from harness.core.events import Observer
from harness.core.extras import describe_missing_package
from harness.core.paths import project_dir
from harness.core.seeding import seed_everything
from harness.core.shortage import ShortageError, describe_shortage
from harness.core.state import ObservingSchedule, Progress, Schedule, TrainState
from harness.core.task import Task
from harness.observers.example_writer import ExampleWriter
from harness.run.final_evaluation import make_test_task
from harness.training import policies
from harness.training.loop import TrainingPlan
from harness.training.optimizers import CombinedOptimizer, group_parameters
from harness.training.parallel import Parallel
from harness.training.policies import Policy
from harness.training.schedules import Plateau
from harness.training.spikes import watch_spikes

UNUSED_KERNEL = "optimizer.fused=true is not used: fused kernels have no complex parameters; the update is the same"
NON_NUMERIC_KEYS = ("params", "param_names", "foreach", "fused", "capturable", "differentiable", "maximize")
"""Keys of a torch parameter group that do not change the update."""
SCHEDULE_FREE = "ScheduleFree"
"""Part of the class names of optimizers by Defazio et al. (2024), in every package that has them."""


@dataclass(frozen=True)
class RunParts:
    """Everything the trainer needs, with the settings in effect."""

    task: Task
    state: TrainState
    plan: TrainingPlan
    parallel: Parallel
    policies: tuple[Policy, ...]
    effective: EffectiveSettings
    notices: tuple[str, ...]
    """Messages about the schedule for the user."""
    test_task: Task | None = None
    """The task on the test split, with score_test."""


def instantiate_component(cfg: DictConfig, *path: str) -> Any:
    """Return the object that the node of `cfg` at `path` describes, such as ("data", "source").

    Raises:
        ConfigError: If the component is not trusted, or if its constructor raises ValueError or OSError, also when a
            partial is called later; the message names the key.
        ShortageError: If there is no space left.
    """
    key, node = ".".join(path), cfg
    for name in path:
        node = node[name]
    try:
        component = build_component(to_plain_dict(node), path)  # without the rest of `cfg`
    except Exception as error:
        raise _to_config_error(key, error) from error
    if not node.get("_partial_"):
        return component
    call = _report_errors_under(key, component)

    def build(*args: Any, **kwargs: Any) -> Any:
        built = call(*args, **kwargs)
        check_interface(path, node["_target_"], built)
        return built

    return wraps(call)(build)


def build_task(cfg: DictConfig, settings: RunSettings, processes: ProcessGroup) -> Task:
    """Build the task and its model on the CPU; rank 0 prepares the data for all ranks."""
    build = instantiate_component(cfg, "task")
    components = {
        key: instantiate_component(cfg, key) for key in ("model", "data", "tokenizer") if cfg.get(key) is not None
    }
    seed_everything(settings.seed)
    try:
        return processes.run_main_first(lambda: build(**components, seed=settings.seed, cache_dir=settings.cache_dir))
    except ConfigError as error:
        setting = error.__cause__
        if not isinstance(setting, SettingError):
            raise
        raise ConfigError(f"{_find_given_key(cfg, setting.key)}: {setting.problem}") from error


def _find_given_key(cfg: DictConfig, key: str) -> str:
    """Return the key whose value `key` has, such as model.name for tokenizer.name: ${model.name}; else `key`."""
    section, _, name = key.rpartition(".")
    node: Any = OmegaConf.to_container(cfg, resolve=False)
    text = node[section].get(name) if isinstance(node.get(section), dict) else None
    return text[2:-1] if isinstance(text, str) and re.fullmatch(r"\$\{[\w.]+\}", text) else key


def build_parts(
    cfg: DictConfig, settings: RunSettings, processes: ProcessGroup, task: Task, schedule_start_step: int = 0
) -> RunParts:
    """Build the parts of a run of `task`, whose model holds the initial weights.

    The length of the run and its schedule count from `schedule_start_step`.
    """
    seed_everything(settings.seed)  # adapters get the same values whether or not a base model was just trained
    if cfg.lora:
        instantiate_component(cfg, "lora")(task.model)
    parallel: Parallel = instantiate_component(cfg, "parallel")
    _report_errors_under("parallel", parallel.place_model)(task.model, processes, _find_autocast(settings))
    _compile_model(cfg.compile, task.model)
    if settings.precision.autocast and any(parameter.is_complex() for parameter in task.model.parameters()):
        raise ConfigError("precision.autocast: the model has complex parameters; use precision=fp32")
    build = partial(build_optimizer, cfg, weight_decay_applies_to=settings.weight_decay_applies_to)
    _report_errors_under("optimizer", parallel.check_optimizer)(build, processes)
    optimizer = build(task.model)
    unused = [UNUSED_KERNEL] if _cannot_use_fused_kernel(cfg, task.model) else []
    plan = _build_plan(settings, task, processes, schedule_start_step)
    schedule = instantiate_component(cfg, "schedule")
    warmup_steps, notices = _report_errors_under("schedule", _check_schedule)(schedule, plan, schedule_start_step)
    notices += _check_averaging(optimizer, schedule, plan.total_steps - schedule_start_step)
    scaler = torch.amp.GradScaler(processes.device.type, enabled=settings.precision.autocast == "float16")
    state = TrainState(
        task.model,
        optimizer,
        schedule,
        scaler,
        examples_per_epoch=task.examples,
        schedule_start_step=schedule_start_step,
    )
    seed_everything(settings.seed + processes.rank)  # dropout masks differ between processes
    return RunParts(
        task=task,
        state=state,
        plan=plan,
        parallel=parallel,
        policies=_build_policies(settings, state),
        effective=_read_effective_settings(state, plan, processes, warmup_steps),
        notices=(*unused, *notices),
        test_task=make_test_task(task) if settings.score_test else None,
    )


def _check_averaging(optimizer: CombinedOptimizer, schedule: Schedule, n_steps: int) -> tuple[str, ...]:
    """Return a message if the LR decays although a schedule-free optimizer averages the weights instead."""
    averaging = [type(part).__name__ for part in optimizer.parts if SCHEDULE_FREE in type(part).__name__]
    if not averaging or (final := schedule.lr_multiplier(Progress(n_steps, 0, n_steps))) >= 1:
        return ()
    decay = f"{type(schedule).__name__} lowers the LR to {final:.0%} of its peak"
    return (f"{decay}, but {averaging[0]} averages the weights instead; it is meant to run with schedule=constant",)


def build_observers(cfg: DictConfig) -> list[Observer]:
    observers = [instantiate_component(cfg, "observers", name) for name in map(str, cfg.observers)]
    return [*observers, ExampleWriter()] if cfg.record_examples else observers


def build_optimizer(cfg: DictConfig, model: nn.Module, weight_decay_applies_to: str) -> CombinedOptimizer:
    """Build `cfg.optimizer` over the trainable parameters of `model`."""
    if _cannot_use_fused_kernel(cfg, model):
        cfg = cfg.copy()
        cfg.optimizer.fused = None
    groups = _report_errors_under("optimizer", group_parameters)(model, weight_decay_applies_to)
    return _report_errors_under("optimizer", CombinedOptimizer)(instantiate_component(cfg, "optimizer")(groups), model)


def _cannot_use_fused_kernel(cfg: DictConfig, model: nn.Module) -> bool:
    return bool(cfg.optimizer.get("fused")) and any(parameter.is_complex() for parameter in model.parameters())


def _compile_model(enabled: bool, model: nn.Module) -> None:
    """Compile in place, which keeps the names in the state dict. The first step with each shape is then slow."""
    if not isinstance(enabled, bool):
        raise ConfigError(f"compile: {enabled!r} must be true or false")
    if enabled:
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if not shutil.which(compiler):
            raise ConfigError(f"compile: true: the C++ compiler {compiler} is not installed; install it, or use false")
        model.compile()


def _check_schedule(schedule: Schedule, plan: TrainingPlan, schedule_start_step: int) -> tuple[int, tuple[str, ...]]:
    """Return the number of warm-up steps, and messages about the schedule in a run of this length."""
    if hasattr(schedule, "observe") and not isinstance(schedule, ObservingSchedule):
        raise ValueError(
            f"{type(schedule).__name__} has `observe`; it also needs `reset_best`, `state_dict` and `load_state_dict`"
        )
    length = plan.total_steps - schedule_start_step
    notices = [schedule.warmup_notice(length)]
    if isinstance(schedule, Plateau):
        notices.append(schedule.idle_notice(len(plan.eval_steps)))
    return schedule.count_warmup_steps(length), tuple(filter(None, notices))


def _build_policies(settings: RunSettings, state: TrainState) -> tuple[Policy, ...]:
    loop, max_skips = settings.loop, settings.precision.max_skips
    run_policies: list[Policy] = [
        watch_spikes(
            loop.on_spike,
            max_skips=max_skips,
            lr_factor=loop.spike_lr_factor,
            max_rollbacks=loop.max_rollbacks,
            losses=state.recent_losses,
        ),
        policies.stop_when_diverged(max_skips),
        policies.shrink_when_out_of_memory,
    ]
    if settings.loop.patience is not None:
        run_policies.append(policies.stop_early(settings.loop.patience))
    return tuple(run_policies)


def _find_autocast(settings: RunSettings) -> torch.dtype | None:
    return getattr(torch, settings.precision.autocast) if settings.precision.autocast else None


def _build_plan(settings: RunSettings, task: Task, processes: ProcessGroup, schedule_start_step: int) -> TrainingPlan:
    batch, loop = settings.batch, settings.loop
    try:
        micro_batch_size = batch.resolve_micro_batch_size(processes.size)
    except ValueError as error:
        raise ConfigError(f"batch.{error}") from error
    length = loop.compute_total_steps(batch.batch_size, task.examples, task.tokens_per_example)
    return TrainingPlan(
        total_steps=schedule_start_step + length,
        eval_steps=frozenset(schedule_start_step + step for step in loop.compute_eval_steps(length)),
        batch_size=batch.batch_size,
        micro_batch_size=micro_batch_size,
        grad_clip=loop.grad_clip or float("inf"),
        autocast=_find_autocast(settings),
        save_every=loop.save_every,
        record_examples=settings.record_examples,
    )


def _read_effective_settings(
    state: TrainState, plan: TrainingPlan, processes: ProcessGroup, warmup_steps: int
) -> EffectiveSettings:
    """Read the settings in effect from the built objects."""
    parameters = list(state.model.parameters())
    groups = [group for optimizer in state.optimizer.parts for group in optimizer.param_groups]
    schedule: Any = state.schedule
    schedule_fields = [field.name for field in fields(schedule) if field.init] if is_dataclass(schedule) else []
    return EffectiveSettings(
        device=processes.device.type,
        devices=processes.size,
        threads=torch.get_num_threads(),
        parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        total_steps=plan.total_steps,
        steps_per_epoch=max(1, state.examples_per_epoch // plan.batch_size),
        warmup_steps=warmup_steps,
        evals=len(plan.eval_steps),
        batch_size=plan.batch_size,
        micro_batch_size=plan.micro_batch_size,
        accum_steps=plan.batch_size // processes.size // plan.micro_batch_size,
        grad_clip=plan.grad_clip,
        autocast=str(plan.autocast or parameters[0].dtype).removeprefix("torch."),
        optimizer="+".join(type(optimizer).__name__ for optimizer in state.optimizer.parts),
        param_groups={group["name"]: _read_group(group) for group in groups},
        schedule=type(schedule).__name__ if is_dataclass(schedule) else "",
        schedule_settings=_to_json_values({name: getattr(schedule, name) for name in schedule_fields}),
        schedule_start_step=state.schedule_start_step,
    )


def _read_group(group: Mapping[str, Any]) -> dict[str, Value]:
    """Return the numbers of a torch parameter group that decide an update."""
    numbers = {name: value for name, value in group.items() if name not in ("name", "lr", *NON_NUMERIC_KEYS)}
    return _to_json_values({"peak_lr": group["lr"], **numbers})


def _to_json_values(settings: Mapping[str, Any]) -> dict[str, Value]:
    """Return `settings` with values that JSON can hold, without those that are None."""
    plain = bool | int | float | str
    return {
        name: list(value) if isinstance(value, tuple) else value if isinstance(value, plain) else str(value)
        for name, value in settings.items()
        if value is not None
    }


def _report_errors_under(key: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return `call` with its ValueErrors and OSErrors raised as ConfigErrors that name `key`."""

    def named(*args: Any, **kwargs: Any) -> Any:
        _check_call(key, call, args, kwargs)
        try:
            return call(*args, **kwargs)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            raise _to_config_error(key, error) from error

    return named


def _check_call(key: str, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check that a component takes what the run passes to it, such as the options that other groups chose.

    Raises:
        ConfigError: If it takes no such argument, or needs one that neither the run nor the configuration gives.
    """
    try:
        inspect.signature(call).bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(getattr(call, "func", call), "__qualname__", str(call))
        raise ConfigError(f"{key}: {name}: {error}; choose options that go together, or set the key") from error


def _to_config_error(key: str, error: BaseException) -> BaseException:
    """Return a ConfigError for a ValueError or OSError, which the user can fix; other errors are bugs and stay."""
    if isinstance(error, ConfigError | ShortageError):
        return error
    if shortage := describe_shortage(error, project_dir()):
        return ShortageError(f"{key}: {shortage}")
    if missing := describe_missing_package(error):
        return ConfigError(f"{key}: {missing}")
    return ConfigError(f"{key}: {error}") if isinstance(error, ValueError | OSError) else error
