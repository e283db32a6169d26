"""Every command of the README and docs/ is accepted: options parse, configurations compose and are valid.

Nothing is trained. A new command in a page is found and checked without a change here.
"""

import argparse
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize
from hydra._internal.utils import get_args_parser

from harness.cli import COMMANDS
from harness.commands.sweep import _read_command_sweep, parse_sweep_arguments
from harness.config.compose import compose_config, format_search_path
from harness.config.errors import HYDRA_ERRORS
from harness.config.locks import check_locked
from harness.config.validation import validate_config
from harness.core.errors import ConfigError
from harness.sweep.programs.command.request import build_command_request
from harness.sweep.programs.training.request import compose_sweep_request
from harness.sweep.programs.training.validation import check_searched_keys
from tests.conftest import ROOT
from tests.test_extending import page_folder as own_folder  # noqa: F401

PROGRAMS = ("python", "plateau", "torchrun", "make")
PLACEHOLDERS = {"experiment=X": "experiment=smoke", "experiment=NAME": "experiment=smoke"}
"""Words that stand for a choice of the reader. Names of runs, files and models are not looked up here."""
APP_SWEEPER = "hydra/sweeper=harness"
PROGRAM_SWEEP = ["plateau", "sweep"]
SHELLS = ("", "sh", "bash", "console")
VARIABLE = re.compile(r"[A-Z_]+=.*")
REFUSED = {"python run.py optimizer=adamww": "the README shows the message"}
MISSING_PLUGINS = {"submitit_slurm": "hydra_plugins.hydra_submitit_launcher", "ray": "hydra_plugins.hydra_ray_launcher",
                   "submitit_local": "hydra_plugins.hydra_submitit_launcher"}  # fmt: skip
"""Launchers of extras, by the module without which their commands cannot be composed here."""


def iter_commands(text: str) -> Iterator[str]:
    """Yield the commands in the code blocks and in the lines of a page, with its shell variables filled in."""
    variables = dict(re.findall(r'^([A-Z]+)="(.*)"$', text, re.MULTILINE))
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in found if language in SHELLS]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    inline = [
        span for span in spans if re.match(rf"\S*(?:{'|'.join(PROGRAMS)}) \S+ ", span)
    ]  # not just a command's name
    for line in [*(line for block in blocks for line in read_lines(block)), *inline]:
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:
            continue  # no shell
        yield from split_commands(words)


def read_lines(block: str) -> list[str]:
    """Return the lines of a code block that may be commands; in a transcript, those after `$ `, and no output."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("$ ")] or lines


def split_commands(words: Sequence[str]) -> Iterator[str]:
    """Yield the commands of our programs in a line, without the environment variables before them.

    Those of `plateau sweep` keep them, since they may be searched.
    """
    command: list[str] = []
    for word in [*words, "&&"]:
        if word not in ("&&", "|"):
            command.append(word)
            continue
        variables = list(takewhile(VARIABLE.fullmatch, command))
        command = command[len(variables) :]
        if command and command[0].rpartition("/")[2] in PROGRAMS:
            yield shlex.join([*variables, *command] if command[:2] == PROGRAM_SWEEP else command)
        command = []


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTED = list(dict.fromkeys(command for page in PAGES for command in iter_commands(page.read_text())))


class Parsed(Exception):
    """Carries the options of a command, which ends there."""


def check_command(command: str, patch: pytest.MonkeyPatch) -> None:
    """Check a command as far as possible without training.

    Raises:
        ConfigError: If it is refused.
    """
    given = shlex.split(command)
    for variable in takewhile(VARIABLE.fullmatch, given):
        patch.setenv(*variable.split("=", 1))
    program, *words = [PLACEHOLDERS.get(word, word) for word in dropwhile(VARIABLE.fullmatch, given)]
    name = program.rpartition("/")[2]
    if name == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    elif [name, *words[:1]] == PROGRAM_SWEEP:
        check_program_sweep(words[1:])
    elif name == "plateau" and words[0] != "run":
        check_plateau(words, patch)
    elif "run.py" in words or words[0] == "run":
        check_run(words[words.index("run.py" if "run.py" in words else "run") + 1 :])
    elif APP_SWEEPER in words:
        check_app_sweep(words)
    elif words[0] == "-m":
        assert importlib.util.find_spec(words[1]), command
    else:
        files = [word for word in words if word.endswith(".py")]
        assert files, command
        assert all((ROOT / file).exists() for file in files), command


def check_run(words: Sequence[str]) -> None:
    args = get_args_parser().parse_intermixed_args(list(words))
    overrides = list(args.overrides)
    if args.config_dir:
        assert Path(args.config_dir).is_dir(), args.config_dir
        overrides.insert(0, format_search_path([f"file://{Path(args.config_dir).absolute()}"]))
    if not args.multirun:
        check_config(overrides)
        return
    request = compose_sweep_request(overrides)
    check_searched_keys(request.space, request.options.allow)
    for values in [{}, *list(request.space.iterate_corners())[:1]]:
        validate_config(request.space.compose_config(values))


def check_program_sweep(words: Sequence[str]) -> None:
    """Check the options and the ranges of a command; the program is the reader's."""
    args, program = parse_sweep_arguments(words)
    build_command_request(_read_command_sweep(args, program, words))


def check_app_sweep(words: Sequence[str]) -> None:
    """Check what a command sets of Hydra; the app itself is the reader's."""
    overrides = get_args_parser().parse_intermixed_args([word for word in words if not word.endswith(".py")]).overrides
    with initialize(config_path=None):
        compose(overrides=[override for override in overrides if override.startswith("hydra")])


def check_config(overrides: Sequence[str]) -> None:
    cfg = compose_config(overrides)
    check_locked(cfg, overrides)
    if not any(override.endswith("=RUN") for override in overrides):
        validate_config(cfg)


def check_plateau(words: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """Parse the options of a command, and check its overrides if it takes any."""
    assert words[0] in COMMANDS, words
    for method in ("parse_args", "parse_intermixed_args"):
        patch.setattr(argparse.ArgumentParser, method, raise_parsed(getattr(argparse.ArgumentParser, method)))
    with pytest.raises(Parsed) as parsed:
        importlib.import_module(f"harness.commands.{words[0].replace('-', '_')}").main(words[1:])
    patch.undo()
    given = getattr(parsed.value.args[0], "overrides", [])
    check_config([one for one in given if words[0] != "rescue" or "=" in one])  # that takes names of runs too


def raise_parsed(parse: Any) -> Any:
    def parse_and_stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        raise Parsed(parse(parser, *args, **kwargs))

    return parse_and_stop


@pytest.mark.parametrize("command", DOCUMENTED)
@pytest.mark.usefixtures("own_folder")
def test_documented_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = re.search(r"hydra/launcher=(\w+)", command)
    if launcher and (module := MISSING_PLUGINS.get(launcher[1])) and importlib.util.find_spec(module) is None:
        pytest.skip(f"{launcher[0]} needs {module}")
    if "postgresql" in command and importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs psycopg")
    if command in REFUSED:
        with pytest.raises(HYDRA_ERRORS):
            check_command(command, monkeypatch)
    else:
        check_command(command, monkeypatch)


def test_commands_are_found() -> None:
    assert len(DOCUMENTED) > 80
    assert {"make run", "python run.py -m", "plateau run experiment=smoke"} <= {*DOCUMENTED}
    assert set(REFUSED) <= set(DOCUMENTED)
    page = '```\nS="lora=none"\nX=1 python run.py $S  # why\n```\n'
    page += "```\n$ make smollm && python run.py a=1\nplateau · step 5 · confidence 99%\n```\n"
    page += "```yaml\na: 1\n```\n```\nplateau diagnose a.log\n```\n"
    page = page.replace('S="lora=none"', "") + 'S="lora=none"\nWrite `plateau clean\nb=1` or `key=value`.\n'
    expected = ["python run.py lora=none", "make smollm", "python run.py a=1", "plateau diagnose a.log"]
    expected.append("plateau clean b=1")
    assert list(iter_commands(page)) == expected


@pytest.mark.parametrize(
    "command",
    [
        "python run.py -m experiment=operator task.loss=l2,h1 sweep.allow=[]",
        "python run.py experiment=smoke optimizer.rl=1",
        "python run.py -m sweeps=none data.sequence_length=32,64",
        "plateau preflight experiment=smoke lora.rank=4",
        "plateau sweep -- python train.py --lr 1e-4",
        "plateau sweep --metrc acc -- python train.py --lr 1e-4,1e-3",
        "plateau sweep --baseline rank=8 -- python train.py --lr 1e-4,1e-3",
    ],
)
def test_refused_command_would_be_found(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((ConfigError, *HYDRA_ERRORS)):
        check_command(command, monkeypatch)
