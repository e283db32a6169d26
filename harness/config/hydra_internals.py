"""The private parts of Hydra that this project uses. tests/config/test_hydra_internals.py fails when they change."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import DefaultsList
from hydra._internal.execution_policy import execution_whitelist
from hydra._internal.grammar.functions import Functions
from hydra._internal.grammar.grammar_functions import tag
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ConfigDefault, DefaultsTreeNode, GroupDefault, ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser import overrides_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError
from harness.core.paths import run_command
from harness.core.terminal import format_choices

_create_functions = overrides_parser.create_functions


def log(start: int | float | IntervalSweep, end: int | float | None = None) -> IntervalSweep:
    """Return the range of `tag(log,interval(start,end))`: log(1e-4,1e-2), int(log(4,64)), log(int(interval(4,64)))."""
    if isinstance(start, IntervalSweep):
        return tag("log", start)  # type: ignore[return-value]  # the same object
    if end is None:
        raise ValueError("log needs two numbers: log(low,high)")
    return tag("log", IntervalSweep(start=float(start), end=float(end)))  # type: ignore[return-value]


def _create_more_functions() -> Functions:
    functions = _create_functions()
    functions.register("log", log)
    return functions


# For all parsers of this process: Hydra's own, and those that read a stored range.
overrides_parser.create_functions = _create_more_functions


def run_hydra_app(
    task: TaskFunction, arguments: Sequence[str], *, config_dir: str, config_name: str, trusted: Sequence[str]
) -> Any:
    """Do what `hydra.main` does with the command line of the process, with `arguments` instead.

    Args:
        task: Called with the composed configuration, once per job.
        trusted: Names of the `_target_`s that Hydra may call.
    """
    args = parse_hydra_arguments(arguments)
    if args.hydra_help:  # Hydra would compose its own configuration, without ours
        print(_list_hydra_options())
        return None
    for option, value in {"--config-path": args.config_path, "--config-name": args.config_name}.items():
        if value:
            remedy = "put your YAML files into a folder laid out like conf/; use --config-dir FOLDER experiment=NAME"
            raise ConfigError(f"{option}: {value}: the main configuration cannot be replaced; {remedy}")
    if args.multirun and (args.cfg or args.info):  # Hydra refuses both together
        args.multirun = False
        ranges = [override for override in args.overrides if is_range(override)]
        args.overrides = [override for override in args.overrides if override not in ranges]
        if ranges:
            print(f"note: shown without the ranges {' '.join(ranges)}", file=sys.stderr)
    with execution_whitelist(trusted):
        return _run_hydra(
            args=args,
            args_parser=_make_args_parser(),
            task_function=task,
            config_path=config_dir,
            config_name=config_name,
        )


class _CheckedLauncher(Launcher):
    """Compose each job here too, where compositions are watched: some launchers compose it in another process only."""

    def __init__(self, launcher: Launcher, loader: ConfigLoader, config: DictConfig) -> None:
        self._launcher, self._loader, self._config = launcher, loader, config

    def setup(self, **_: Any) -> None:
        """Do nothing: the launcher is set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        for overrides in filter(None, job_overrides):
            self._loader.load_sweep_config(self._config, list(overrides))
        return self._launcher.launch(job_overrides, initial_job_idx=initial_job_idx)


def parse_hydra_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of Hydra's command line and its `overrides`.

    Raises:
        ConfigError: If there is no such option.
    """
    return _make_args_parser().parse_intermixed_args(list(arguments))


def _make_args_parser() -> argparse.ArgumentParser:
    parser = get_args_parser()
    parser.usage = "plateau run [OPTION]... [OVERRIDE]...; --hydra-help lists the options"
    parser.error = _raise_option_error  # type: ignore[method-assign]
    return parser


def _list_hydra_options() -> str:
    """Return Hydra's options and what they do; argparse cannot format their help, which has percent signs."""
    refused = ("overrides", "config_path", "config_name")
    actions = [action for action in _make_args_parser()._actions if action.dest not in refused]
    return format_choices({", ".join(action.option_strings): " ".join(str(action.help).split()) for action in actions})


def _raise_option_error(message: str) -> NoReturn:
    """Report an invalid option; a setting with dashes is a frequent one."""
    if wrong := re.match(r"unrecognized arguments: (-+)(\S+)", message):
        setting = wrong[2] if "=" in wrong[2] else f"{wrong[2]}=VALUE"
        message = f"{wrong[1]}{wrong[2]}: there is no such option; settings have no dashes: {setting}"
    raise ConfigError(f"{message} (`{' '.join(run_command())} --hydra-help` lists the options)")


class ConfigFiles:
    """The files on the search path of the running Hydra application, or else of `config_dir`, and in more folders."""

    def __init__(self, config_dir: str, folders: Sequence[str]) -> None:
        hydra = GlobalHydra.instance()
        initialized = hydra.is_initialized()
        path = (
            deepcopy(hydra.config_loader().get_search_path()) if initialized else create_config_search_path(config_dir)
        )
        schema = path.get_path().pop()  # must stay last
        for folder in folders:
            path.append("hydra.searchpath in command-line", folder)
        path.get_path().append(schema)
        self._repository = ConfigRepository(path)

    def list_groups(self) -> list[str]:
        """Return the groups at the top level."""
        return self._repository.get_group_options("", ObjectType.GROUP)

    def list_options(self, group: str) -> list[str]:
        """Return the options of a group."""
        return self._repository.get_group_options(group)

    def read_option(self, group: str, path: str, users: Sequence[str] = ()) -> dict[str, Any]:
        """Return the content of a file for the section `group`, with that of the files of the group it is built on.

        `users` are the files that are built on it.

        Raises:
            ConfigError: If there is no such file, it holds no keys, or is built on itself. Hydra raises others.
        """
        loaded = None if path in users else self._repository.load_config(path)
        if loaded is None or not isinstance(loaded.config, DictConfig):
            raise ConfigError(f"{path}.yaml: is not the file of an option")
        own: Any = OmegaConf.to_container(loaded.config, resolve=False)
        own = own.get(group) or {} if loaded.header.get("package") == "_global_" else own
        parts = []
        for entry in loaded.defaults_list or ():
            if entry.is_self():
                parts.append(own)
            elif isinstance(entry, ConfigDefault):
                entry.update_parent(path.rpartition("/")[0], group)
                parts.append(self.read_option(group, entry.get_config_path(), (*users, path)))
        merged = OmegaConf.merge(*parts, *([] if own in parts else [own]))
        return OmegaConf.to_container(merged, resolve=False)  # type: ignore[return-value]  # its keys are texts


def is_range(override: str) -> bool:
    """Return whether an override has several values, as for a sweep."""
    with suppress(HydraException):  # Hydra explains what it cannot parse
        return OverridesParser.create().parse_override(override).is_sweep_override()
    return False


@dataclass(frozen=True)
class ConfigFile:
    """A file of a configuration, the options that its `override` entries choose, and the files that it is built on."""

    path: str
    choices: Mapping[str, str | None]
    parts: Sequence["ConfigFile"]


class FileAdjuster(Protocol):
    """Rules of one composition for the content of its files."""

    def adjust_file(self, path: str, content: DictConfig) -> DictConfig:
        """Return the content of a file as it is to be merged, without changing `content`."""


Choices = Mapping[str, str | None]


@contextmanager
def watch_compositions(
    check_config: Callable[[DictConfig], None],
    check_source: Callable[[str], None],
) -> Iterator[None]:
    """Check every configuration that Hydra composes in this context before Hydra configures or builds anything by it.

    Callbacks of Hydra cannot do this: they are built from the configuration, after its logging is configured.

    Args:
        check_config: Called with the configuration, which includes the node `hydra` and may still be changed.
        check_source: Called with each entry of `hydra.searchpath` before it is read.
    """
    compose, add_sources = ConfigLoaderImpl._load_configuration, ConfigRepository.initialize_sources
    make_launcher = Plugins.instantiate_launcher

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

    def make_checked_launcher(
        plugins: Plugins, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> Launcher:
        launcher = make_launcher(plugins, hydra_context, task_function, config)
        return _CheckedLauncher(launcher, hydra_context.config_loader, config)

    ConfigLoaderImpl._load_configuration = compose_checked  # type: ignore[method-assign, assignment]
    ConfigRepository.initialize_sources = add_checked_sources  # type: ignore[method-assign, assignment]
    Plugins.instantiate_launcher = make_checked_launcher  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ConfigLoaderImpl._load_configuration = compose  # type: ignore[method-assign]
        ConfigRepository.initialize_sources = add_sources  # type: ignore[method-assign]
        Plugins.instantiate_launcher = make_launcher  # type: ignore[method-assign]


@contextmanager
def adjust_files(make_rules: Callable[[Sequence[ConfigFile], Choices, Choices], FileAdjuster]) -> Iterator[None]:
    """Adjust the content of every file that Hydra composes in this context, before it is merged.

    Args:
        make_rules: Called once per composition with the files of the defaults list, the option of each group, and the
            same without the options that overrides choose, except that of `experiment`.
    """
    if adjusts_files():  # the innermost context makes the rules
        outer = config_loader_impl.create_defaults_list.make_rules  # type: ignore[attr-defined]
        config_loader_impl.create_defaults_list.make_rules = make_rules  # type: ignore[attr-defined]
        try:
            yield
        finally:
            config_loader_impl.create_defaults_list.make_rules = outer  # type: ignore[attr-defined]
        return
    list_defaults, load_file = config_loader_impl.create_defaults_list, ConfigLoaderImpl._load_single_config

    def list_with_rules(repo: Any, config_name: str, overrides_list: list[Override], **options: Any) -> DefaultsList:
        result = list_defaults(repo, config_name, overrides_list, **options)
        chosen = default_choices = result.overrides.known_choices
        defaults = [override for override in overrides_list if not _chooses_option(override, repo)]
        if len(defaults) < len(overrides_list):
            with suppress(HydraException):  # a group may have no default
                default_choices = list_defaults(repo, config_name, defaults, **options).overrides.known_choices
        files = _list_primary_files(result.defaults_tree, repo)
        rules = list_with_rules.make_rules(files, chosen, default_choices)  # type: ignore[attr-defined]
        for default in result.defaults:
            default.file_rules = rules  # type: ignore[attr-defined]
        return result

    def load_adjusted(loader: ConfigLoaderImpl, default: ResultDefault, repo: Any) -> ConfigResult:
        loaded = copy(load_file(loader, default=default, repo=repo))
        if default.config_path and isinstance(loaded.config, DictConfig):
            loaded.config = default.file_rules.adjust_file(  # type: ignore[attr-defined]
                default.config_path, loaded.config
            )
        return loaded

    list_with_rules.make_rules = make_rules  # type: ignore[attr-defined]
    config_loader_impl.create_defaults_list = list_with_rules  # type: ignore[assignment]
    ConfigLoaderImpl._load_single_config = load_adjusted  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        config_loader_impl.create_defaults_list = list_defaults
        ConfigLoaderImpl._load_single_config = load_file  # type: ignore[method-assign]


def adjusts_files() -> bool:
    """Return whether the content of files is adjusted in this process."""
    return ConfigLoaderImpl._load_single_config.__module__ == __name__


def _chooses_option(override: Override, repo: Any) -> bool:
    """Return whether an override chooses the option of a group in the defaults list, other than `experiment`."""
    return (
        not override.is_add()
        and not override.is_delete()
        and override.key_or_group != "experiment"
        and not override.is_hydra_override()
        and not override.is_sweep_override()
        and not isinstance(override.value(), dict)
        and repo.group_exists(override.key_or_group)
    )


def _list_primary_files(tree: DefaultsTreeNode, repo: Any) -> list[ConfigFile]:
    """Return the files that the defaults list of the primary configuration names."""
    for child in tree.children or ():
        if isinstance(child, DefaultsTreeNode) and child.node.primary:
            return [file for part in child.children or () if (file := _read_tree(part, repo))]
    return []


def _read_tree(tree: Any, repo: Any) -> ConfigFile | None:
    """Return a node of Hydra's tree of defaults as a file, None if it is none."""
    is_tree = isinstance(tree, DefaultsTreeNode)
    node = tree.node if is_tree else tree
    if node.is_self() or node.is_virtual() or node.is_deleted() or node.get_name() is None or node.is_missing():
        return None
    path = node.get_config_path()
    loaded = repo.load_config(config_path=path)
    choices: dict[str, str | None] = {}
    for entry in deepcopy(loaded.defaults_list or []) if loaded else ():
        if isinstance(entry, GroupDefault) and entry.override:
            entry.update_parent(node.get_group_path(), node.get_final_package())
            choices[entry.get_override_key()] = entry.value if isinstance(entry.value, str | None) else str(entry.value)
    parts = [_read_tree(part, repo) for part in (tree.children or ())] if is_tree else []
    return ConfigFile(path, choices, [part for part in parts if part])
