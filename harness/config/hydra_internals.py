"""The private parts of Hydra that this project uses. tests/config/test_hydra_internals.py fails when they change."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.execution_policy import execution_whitelist
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.types import TaskFunction
from omegaconf import DictConfig

from harness.core.errors import ConfigError


def run_hydra_app(
    task: TaskFunction, arguments: Sequence[str], *, config_dir: str, config_name: str, trusted: Sequence[str]
) -> Any:
    """Do what `hydra.main` does, with `arguments` instead of `sys.argv`.

    `plateau run ARGUMENTS` cannot use `hydra.main`, which reads the command line of the process.

    Args:
        task: Called with the composed configuration, once per job.
        trusted: Names of the `_target_`s that Hydra may call.
    """
    parser = get_args_parser()
    parser.usage = "plateau run [OPTION]... [OVERRIDE]...; --hydra-help lists the options"
    with execution_whitelist(trusted):
        return _run_hydra(
            args=parser.parse_intermixed_args(list(arguments)),
            args_parser=parser,
            task_function=task,
            config_path=config_dir,
            config_name=config_name,
        )


@contextmanager
def watch_compositions(
    check_config: Callable[[DictConfig], None], check_source: Callable[[str], None]
) -> Iterator[None]:
    """Check every configuration that Hydra composes in this context before Hydra configures or builds anything by it.

    Callbacks of Hydra cannot do this: they are built from the configuration, after its logging is configured.

    Args:
        check_config: Called with the configuration, which includes the node `hydra`.
        check_source: Called with each entry of `hydra.searchpath` before it is read.
    """
    compose, add_sources = ConfigLoaderImpl._load_configuration, ConfigRepository.initialize_sources

    def compose_checked(loader: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> DictConfig:
        try:
            cfg = compose(loader, *args, **kwargs)
        except KeyError as error:  # a variable of hydra.job.env_copy that is not set
            raise ConfigError(f"hydra.job.env_copy: {error}: there is no such variable; remove it") from error
        check_config(cfg)
        return cfg

    def add_checked_sources(repository: ConfigRepository, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            if (element.provider or "").startswith("hydra.searchpath"):
                check_source(str(element.path))
        add_sources(repository, search_path)

    ConfigLoaderImpl._load_configuration = compose_checked  # type: ignore[method-assign, assignment]
    ConfigRepository.initialize_sources = add_checked_sources  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ConfigLoaderImpl._load_configuration = compose  # type: ignore[method-assign]
        ConfigRepository.initialize_sources = add_sources  # type: ignore[method-assign]
