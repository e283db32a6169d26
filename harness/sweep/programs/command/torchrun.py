"""Commands that use torchrun: how many processes they start, and that these meet on a free port."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.sweep.programs.command.slots import SCRIPT, TORCHRUN_MODULES

PROCESS_OPTIONS = ("--nproc-per-node", "--nproc_per_node")
MODULE_OPTIONS = ("-m", "--module", "--no-python", "--no_python")
MEETING_OPTIONS = ("--standalone", "--nnodes", "--node", "--rdzv", "--master")
MEETING_VARIABLES = ("PET_STANDALONE", "PET_NNODES", "PET_NODE", "PET_RDZV", "PET_MASTER")
"""Beginnings of the options and variables of torchrun by which a user says where the processes meet."""


def read_n_processes(words: Sequence[str]) -> int | None:
    """Return the number in --nproc-per-node of a command; None without it, and for a word such as `gpu`."""
    options = _list_options(words) or []
    for option, following in zip(options, [*options[1:], ""], strict=False):
        name, is_set, value = option.partition("=")
        if name in PROCESS_OPTIONS:
            number = value if is_set else following
            return int(number) if number.isdecimal() and int(number) else None
    return None


def choose_free_port(words: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables by which the torchrun of a command chooses a free port, unless the user has said otherwise.

    torch before 2.13 takes 29500, which trials that run at the same time cannot share.
    """
    options = _list_options(words)
    if options is None or any(option.startswith(MEETING_OPTIONS) for option in options):
        return {}
    is_chosen = any(name.startswith(MEETING_VARIABLES) for name in environment)
    return {} if is_chosen else {"PET_STANDALONE": "1"}  # as if its option --standalone was given


def _list_options(words: Sequence[str]) -> list[str] | None:
    """Return the words between torchrun and the script that it starts; None for other commands."""
    options: list[str] | None = None
    for word in words:
        if options is None:
            options = [] if Path(word).name == "torchrun" or word in TORCHRUN_MODULES else None
        elif SCRIPT.fullmatch(word) or word in MODULE_OPTIONS:
            break
        else:
            options.append(word)
    return options
