"""The way a user types an app: the command of its sweep, and that of one run."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.compose import flatten_values
from harness.config.hydra_internals import is_range
from harness.config.overrides import format_value, read_override_key
from harness.core.credentials import hide_secret_words
from harness.sweep.options import rename_sweep_options
from harness.sweep.programs.hydra_app.app_command import MULTIRUN_OVERRIDE, AppCommand, list_typed_overrides
from harness.sweep.results.formatting import format_override

SWEEP_KEYS = re.compile(r"hydra[./](?:sweeper|launcher|sweep|mode)\b")
SEED_KEY = "seed"
MULTIRUN_OPTIONS = ("-m", "--multirun")


@dataclass(frozen=True)
class AppCommandLine:
    """The command line of an app: the words that start it, what one run keeps of those behind, and the whole command.

    It has no credentials. `confirm_options` are those of `plateau confirm`, which is None if it cannot start the app.
    """

    program: Sequence[str]
    kept: Sequence[str]
    command: str
    confirm_options: str | None = None
    baseline_name: ClassVar[str] = "the current configuration"

    def to_json(self) -> dict[str, Any]:
        """Return this command line as plain data."""
        return asdict(self)

    def format_command(self, values: Mapping[str, Any]) -> str:
        """Return the command of a run with `values`, quoted for Hydra and the shell."""
        replaced = {key.lstrip("+") for key in values}
        kept = [one for one in self.kept if read_override_key(one) not in replaced]
        return shlex.join([*self.program, *kept, *list_value_overrides(values)])

    def format_wider_search(self, key: str, text: str) -> str:
        """Return the overrides that search `key` over a range in another study, quoted for the shell."""
        return f"'{key}={text}' hydra.sweeper.study_name=NAME"

    def rename_options(self, message: str) -> str:
        """Return a message with the names that options have in `hydra.sweeper`."""
        return rename_app_options(message)


def read_app_command_line(
    config: DictConfig,
    loader: ConfigLoader,
    command: AppCommand | None,
    ranges: Iterable[str],
    fixed: Iterable[str] = (),
) -> AppCommandLine:
    """Return the command line of an app, whose command is None if it is not known.

    `ranges` are the overrides that the sweep searches, in place of which a run has values, and `fixed` those that all
    its trials share. `loader` composes the configuration.
    """
    overrides = list_typed_overrides(config)
    if command is None:
        program = ["python", f"{config.hydra.job.name}.py"]
        given = [one for one in overrides if one != MULTIRUN_OVERRIDE]
    else:
        program, given = command.typed_program, list(command.arguments)
    given = hide_secret_words(given)
    searched = {read_override_key(one) for one in ranges}
    kept = [
        one
        for one in given
        if one not in MULTIRUN_OPTIONS
        and read_override_key(one) not in searched
        and not SWEEP_KEYS.match(one.lstrip("+~"))
        and not is_range(one)
    ]
    # A range of one value, and a value of hydra.sweeper.params, which a run without -m does not read.
    kept += [one for one in hide_secret_words(fixed) if one not in given]
    others = [one for one in overrides if read_override_key(one) not in searched and not is_range(one)]
    if _is_multirun_by_file(loader, config.hydra.job.config_name, others):
        kept.append("hydra.mode=RUN")
    typed = shlex.join([*program, *(["-m"] if command is None else []), *given])
    return AppCommandLine(program, kept, typed, None if command is None else _find_confirm_options(config))


def list_seed_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys of a configuration that are called like a seed."""
    return [key for key in keys if SEED_KEY in key.rpartition(".")[2].lower()]


def _find_confirm_options(config: DictConfig) -> str:
    """Return the option of `plateau confirm` that names the key of the seed, if that is not the one it looks for."""
    if SEED_KEY in config:
        return ""
    plain = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    assert isinstance(plain, dict)
    seeds = list_seed_keys(flatten_values({key: plain[key] for key in plain if key != "hydra"}))
    return f"--seed-flag {seeds[0] if seeds else 'KEY'}"


def _is_multirun_by_file(loader: ConfigLoader, config_name: str | None, overrides: Iterable[str]) -> bool:
    """Return whether a configuration file says `hydra.mode: MULTIRUN`, so that even one run needs another mode."""
    given = [one for one in overrides if read_override_key(one) != "hydra.mode"]
    try:
        return loader.load_configuration(config_name, given, RunMode.RUN).hydra.mode == RunMode.MULTIRUN
    except (HydraException, OmegaConfBaseException):  # a required choice is searched
        return False


def rename_app_options(message: str) -> str:
    """Replace our own names of a sweep's options, such as sweep.study, by those in `hydra.sweeper`."""
    others = {"study": "hydra.sweeper.study_name", "sampler": "hydra/sweeper/sampler"}
    return rename_sweep_options(message, lambda name: others.get(name, f"hydra.sweeper.{name}"))


def list_value_overrides(values: Mapping[str, Any]) -> list[str]:
    """Return the overrides of a trial's values; those of choices are as they were listed."""
    return [
        format_override(key, value) if isinstance(value, str) else f"{key}={format_value(value)}"
        for key, value in values.items()
    ]
