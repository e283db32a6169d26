"""Command-line arguments that several commands share."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import NoReturn, TypeVar

from harness.core.errors import ConfigError, did_you_mean
from harness.core.terminal import wrap_text
from harness.record.run_lookup import default_output_dir

T = TypeVar("T")
U = TypeVar("U")
SEED_FLAG = "--seed-flag"
RUN_HELP = "a run's folder, its name or the beginning of it, `last`, STUDY/best, STUDY/3, or an MLflow run id"


def add_run(parser: argparse.ArgumentParser, about: str = "") -> None:
    """Add RUN, which `find_run` finds in --output-dir; `about` says what else it may be."""
    parser.add_argument("run", metavar="RUN", help=f"{RUN_HELP}{about}")
    add_output_dir(parser)


def add_output_dir(parser: argparse.ArgumentParser) -> None:
    """Add --output-dir, the folder in which names of runs are looked up."""
    default = default_output_dir()
    parser.add_argument("--output-dir", type=Path, default=default, metavar="DIR",
                        help="the output_dir of the runs, if not outputs/")  # fmt: skip


class ParagraphFormatter(argparse.RawDescriptionHelpFormatter):
    """Wrap the paragraphs of a description to the terminal; examples and lists, which have indented lines, stay."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        is_list = [any(line.startswith(" ") for line in paragraph.splitlines()) for paragraph in paragraphs]
        return "\n\n".join(
            paragraph if kept else "\n".join(wrap_text(" ".join(paragraph.split()), width, indent, indent))
            for paragraph, kept in zip(paragraphs, is_list, strict=True)
        )


class CommandParser(argparse.ArgumentParser):
    """Parser of a command's arguments; an error is one line and raised, like that of any other invalid input."""

    def error(self, message: str) -> NoReturn:
        """Raise the error.

        Raises:
            ConfigError: Always.
        """
        words = re.fullmatch(r"unrecognized arguments: (.*)", message)
        options = [option for action in self._actions for option in action.option_strings]
        hint = did_you_mean(words[1].split()[0].partition("=")[0], options) if words else ""
        raise ConfigError(f"{self.prog}: {message}{hint}; `{self.prog} --help` lists the arguments")


def join_option_value(arguments: Sequence[str], option: str) -> list[str]:
    """Return arguments with `option=VALUE` for `option VALUE`, whose value argparse would take for another option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == option:
            joined[-1] = f"{option}={argument}"
        else:
            joined.append(argument)
    return joined


def add_overrides(parser: argparse.ArgumentParser, metavar: str = "OVERRIDE", about: str = "") -> None:
    """Add OVERRIDE... and --config-dir, as `plateau run` takes them; `about` says what else may stand there."""
    help_text = f"as for run.py, such as experiment=headlines{about}"
    parser.add_argument("overrides", nargs="*", metavar=metavar, help=help_text)
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with your own YAML files, laid out like conf/")


def parse_overrides(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse `arguments`, options between overrides included; --config-dir becomes one of `overrides`.

    If the overrides resume a run, its own choices precede them.

    Raises:
        ConfigError: If --config-dir is not a folder, or the run to resume is not found.
    """
    args = parser.parse_intermixed_args(arguments)
    if args.config_dir is not None:
        folder = Path(args.config_dir).absolute()
        if not folder.is_dir():
            raise ConfigError(f"--config-dir: {args.config_dir}: not a folder; name the one that holds your YAML files")
        from harness.config.compose import format_search_path  # loads Hydra, which diagnose does without

        args.overrides.insert(0, format_search_path([f"file://{folder}"]))
    from harness.run.resumed_settings import take_over_settings  # loads Hydra too

    args.overrides = take_over_settings(args.overrides)
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


@contextmanager
def redirect_to_stderr(is_redirected: bool) -> Iterator[None]:
    """Print to standard error in this block, so that standard output has nothing but the result."""
    if not is_redirected:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield
