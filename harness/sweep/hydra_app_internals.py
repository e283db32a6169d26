"""The private parts of Hydra and OmegaConf that sweeps of apps use. The tests of this file fail when they change.

Hydra loads it at every start with the plugin, so heavy imports are left out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

WORKER_VARIABLE = "HARNESS_SWEEP_WORKER"
"""Environment variable that tells a program that it was started as a worker."""


@contextmanager
def replace_resolver(name: str, resolve: Callable[..., Any]) -> Iterator[None]:
    """Replace a resolver of OmegaConf in this context. Values that a configuration has cached stay."""
    previous = BaseContainer._resolvers.get(name)
    OmegaConf.register_resolver(name, resolve, replace=True)
    try:
        yield
    finally:
        OmegaConf.clear_resolver(name)
        if previous is not None:
            BaseContainer._resolvers[name] = previous


def skip_multirun_callbacks() -> None:
    """Let Hydra not call `on_multirun_start` and `on_multirun_end` in this process, a worker of a sweep.

    The process that the user started calls them once. Those of jobs are called here.
    """

    def do_nothing(callbacks: Callbacks, config: DictConfig, **_: Any) -> None:
        pass

    Callbacks.on_multirun_start = do_nothing  # type: ignore[method-assign, assignment]
    Callbacks.on_multirun_end = do_nothing  # type: ignore[method-assign, assignment]


def without_callbacks(context: HydraContext) -> HydraContext:
    """Return the context without the callbacks of an app."""
    return HydraContext(context.config_loader, Callbacks(), context.execution_whitelist)


def always_use_sweeper(choice: str, sweeper_class: type[Sweeper]) -> None:
    """Let Hydra use `sweeper_class` wherever `hydra/sweeper=CHOICE` is set.

    A file of a search may also name the class of another sweeper: `hydra.sweeper._target_`. Hydra would then start
    that one, with the options of this.
    """
    instantiate_other = Plugins.instantiate_sweeper

    def instantiate_sweeper(
        plugins: Plugins, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> Sweeper:
        if config.hydra.runtime.choices.get("hydra/sweeper") != choice:
            return instantiate_other(plugins, hydra_context=hydra_context, task_function=task_function, config=config)
        sweeper = sweeper_class()
        sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        return sweeper

    Plugins.instantiate_sweeper = instantiate_sweeper  # type: ignore[method-assign, assignment]


def read_job_error(job: JobReturn) -> BaseException:
    """Return what the task function of a failed job has raised, without the message that Hydra prints."""
    error = job._return_value
    assert isinstance(error, BaseException)
    return error
