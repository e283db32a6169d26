"""Metric files of MLflow's file store: one per metric, with the time, the value and the step in each line."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from harness.core.input_files import open_input
from harness.diagnosis.history import History
from harness.importers.sources.decoding import iterate_text_lines
from harness.importers.tables.record_set import is_loss_like
from harness.importers.tables.records import Located, read_records

METRIC_LINE = re.compile(r"\d{12,14} (?P<value>\S+) (?P<step>\d+)")
KIND = "metric file"
MAX_METRIC_BYTES = 250_000_000
SHORTEN = "export the metric as a table"


def is_metric_file(head: str) -> bool:
    """Return whether a file that begins with `head` is a metric file of MLflow."""
    lines = head.splitlines()[:3]
    return bool(lines) and all(METRIC_LINE.fullmatch(line) for line in lines)


def read_metric_file(lines: Iterable[str], path: Path) -> list[History]:
    """Read the lines of one metric file; its name and that of its folder, as in `train/loss`, are that of the metric.

    Raises:
        ValueError: If the file is not named after a loss.
    """
    name = _name_metric(path)
    if not is_loss_like(name):
        raise ValueError(f"{path}: MLflow's file of the metric {name!r}, which is no loss; give the folder of the run")
    return read_records(_iterate_points(lines, name), path, KIND)


def read_metric_folder(folder: Path) -> list[History]:
    """Read all metric files below the folder `metrics` of a run.

    Raises:
        ValueError: If none is named after a loss.
    """
    files = sorted(path for path in (folder / "metrics").rglob("*") if path.is_file())
    return read_records(chain.from_iterable(map(_iterate_file, files)), folder, KIND)


def _name_metric(path: Path) -> str:
    parts = path.absolute().parts
    start = len(parts) - parts[::-1].index("metrics") if "metrics" in parts else -1
    return "/".join(parts[start:])


def _iterate_file(path: Path) -> Iterator[Located]:
    with open_input(path, MAX_METRIC_BYTES, SHORTEN) as file:
        yield from _iterate_points(iterate_text_lines(file, path, SHORTEN), _name_metric(path))


def _iterate_points(lines: Iterable[str], name: str) -> Iterator[Located]:
    for number, line in enumerate(lines, 1):
        if match := METRIC_LINE.fullmatch(line.strip()):
            yield f"line {number}", {name: match["value"], "step": match["step"]}, False
