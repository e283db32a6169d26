"""Command-line arguments that several commands share."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from harness.core.errors import ConfigError

T = TypeVar("T")
U = TypeVar("U")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add OVERRIDE... and --config-dir, as `plateau run` takes them."""
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for run.py, such as experiment=headlines")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with your own YAML files, laid out like conf/")


def parse_overrides(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse `arguments`, options between overrides included; --config-dir becomes one of `overrides`.

    Raises:
        ConfigError: If --config-dir is not a folder.
    """
    args = parser.parse_intermixed_args(arguments)
    if args.config_dir is not None:
        folder = Path(args.config_dir).absolute()
        if not folder.is_dir():
            raise ConfigError(f"--config-dir: {args.config_dir}: not a folder; name the one that holds your YAML files")
        from harness.config.compose import format_search_path  # loads Hydra, which diagnose does without

        args.overrides.insert(0, format_search_path([f"file://{folder}"]))
    return args


def add_threshold_option(parser: argparse.ArgumentParser) -> None:
    """Add --threshold NAME=VALUE, which may be repeated."""
    parser.add_argument("--threshold", action="append", default=[], metavar="NAME=VALUE",
                        help="change a threshold of docs/diagnosis.md, such as spike_z=8")  # fmt: skip


def parse_option(option: str, parse: Callable[[T], U], value: T) -> U:
    """Return the parsed value of a command line option; turn ValueError into ConfigError."""
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error
