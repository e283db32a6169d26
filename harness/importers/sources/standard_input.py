"""A log on standard input, saved to a file so that it is read like any other."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from harness.diagnosis.history import History
from harness.importers import read_histories

STANDARD_INPUT_NAME = "standard input"


def read_standard_input(folder: Path) -> list[History]:
    """Save standard input in `folder`, up to its end, and read the runs in it.

    Raises:
        ValueError: If it holds no known format.
    """
    path = folder / "stdin"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return read_spooled(path)


def read_spooled(path: Path) -> list[History]:
    """Read the runs in the copy of standard input at `path`, with standard input as their source.

    Raises:
        ValueError: If it holds no known format.
    """
    try:
        histories = read_histories(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), STANDARD_INPUT_NAME)) from error
    for history in histories:
        facts = history.facts
        name, source = facts.name.replace(path.stem, STANDARD_INPUT_NAME), facts.source
        history.facts = replace(facts, name=name, source=source.replace(str(path), STANDARD_INPUT_NAME))
    return histories
