"""Command-line arguments that several commands share."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import ConfigError


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
        args.overrides.insert(0, f"hydra.searchpath=[file://{folder}]")
    return args
