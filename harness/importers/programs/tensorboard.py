"""TensorBoard event files of any program."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.core.files import check_regular_file
from harness.core.formatting import format_bytes
from harness.diagnosis.history import History, RunFacts
from harness.importers.metric_aliases import SPLIT_WORDS, build_history
from harness.importers.named_values.curves import Moment, NamedCurves
from harness.importers.named_values.value_names import ValueName

MAX_EVENT_BYTES = 10**9
WAIT_FACTOR = 10
"""Reading files that grow takes at most a tenth of the time."""
KERAS_LOSS = "epoch_loss"  # recorded at epochs


def read_tensorboard(path: Path, parts: Sequence[Path] = ()) -> History:
    """Read the scalars of one event file, or of all in a folder and in `parts`, folders of the same run.

    The names of the parts say what is in them: `train` and `validation` (Keras), or `Loss_train` (`add_scalars`).

    Raises:
        ValueError: If tensorboard is not installed, or no tag names a loss.
    """
    check_installed(path)
    points: dict[str, list[tuple[int, float]]] = {}
    for part in (path, *parts):
        _check_event_files(part)
        for tag, recorded in _read_scalars(part).items():
            is_split = part.name.lower() in SPLIT_WORDS
            points[tag if part == path else f"{part.name}/{tag}" if is_split else part.name] = recorded
    facts = RunFacts(name=path.name)
    if any(tag.rpartition("/")[2] == KERAS_LOSS for tag in points):
        facts = replace(facts, steps_unit="epochs", steps_per_epoch=1.0)
    history = build_history(points, facts)
    if not len(history["train/loss"]) and not len(history["val/loss"]):
        raise ValueError(f"{path}: no tag of these event files names a loss; their tags: {', '.join(points) or 'none'}")
    count = sum(map(len, points.values()))
    history.facts = replace(history.facts, source=f"TensorBoard events {path}: {count} points of {len(points)} tags")
    return history


def _check_event_files(path: Path) -> None:
    """Check that all event files are regular ones that fit into memory, where tensorboard keeps their tensors.

    Raises:
        ValueError: If they are not.
    """
    files = [path] if not path.is_dir() else [file for file in path.iterdir() if "tfevents" in file.name]
    for file in files:
        check_regular_file(file)
    if sum(file.stat().st_size for file in files) > MAX_EVENT_BYTES:
        limit = format_bytes(MAX_EVENT_BYTES)
        raise ValueError(f"{path}: event files larger than {limit}; export the scalars as CSV in TensorBoard")


def _read_scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) pairs by tag, those that TensorFlow 2 and JAX store as tensors included."""
    from tensorboard.util.tensor_util import make_ndarray

    events = _open_events(path).Reload()
    points = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in events.Tags()["tensors"]:
        arrays = [(e.step, make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        if all(array.ndim == 0 and array.dtype.kind == "f" for _, array in arrays):
            points[tag] = [(step, float(array)) for step, array in arrays]
    return points


class EventSource:
    """An event file, or a folder with event files in it and in folders below, whose names stand before their tags."""

    def __init__(self, path: Path) -> None:
        check_installed(path)
        self._path = path
        self._curves = NamedCurves()
        self._readers: dict[Path, Any] = {}
        self._counts: dict[tuple[Path, str], int] = {}
        self._next_time = 0.0

    def read(self, is_final: bool) -> NamedCurves:
        if not is_final and time.monotonic() < self._next_time:
            return self._curves
        started = time.monotonic()
        for part in self._list_parts():
            reader = self._readers.get(part)
            if reader is None:
                reader = self._readers[part] = _open_events(part)
            reader.Reload()
            self._add_new(part, reader)
        self._next_time = time.monotonic() + WAIT_FACTOR * (time.monotonic() - started)
        return self._curves

    def _list_parts(self) -> list[Path]:
        if not self._path.is_dir():
            return [self._path]
        return sorted({file.parent for file in self._path.rglob("*tfevents*") if file.is_file()})

    def _add_new(self, part: Path, reader: Any) -> None:
        from tensorboard.util.tensor_util import make_ndarray

        folder = part.relative_to(self._path).as_posix() if part != self._path else "."
        tags = reader.Tags()
        for tag in tags["scalars"]:
            events = reader.Scalars(tag)
            self._add_points(part, folder, tag, [(event.step, event.value) for event in self._new(part, tag, events)])
        for tag in tags["tensors"]:
            arrays = [
                (event.step, make_ndarray(event.tensor_proto)) for event in self._new(part, tag, reader.Tensors(tag))
            ]
            if all(array.ndim == 0 and array.dtype.kind == "f" for _, array in arrays):
                self._add_points(part, folder, tag, [(step, float(array)) for step, array in arrays])

    def _new(self, part: Path, tag: str, events: list[Any]) -> list[Any]:
        start = self._counts.get((part, tag), 0)
        self._counts[part, tag] = len(events)
        return events[start:]

    def _add_points(self, part: Path, folder: str, tag: str, points: list[tuple[int, float]]) -> None:
        last = tag.rpartition("/")[2]
        parts = tuple(name for name in (tag, last) if name != tag or folder != ".")
        name = ValueName(tag if folder == "." else f"{folder}/{tag}", None, parts)
        curve = self._curves.find_or_add(name) if points else None
        for step, value in points:
            if curve is not None:
                curve.add(value, Moment(step))


def check_installed(path: Path) -> None:
    """Check that the package tensorboard is there.

    Raises:
        ValueError: If it is not; the message names the extra.
    """
    if find_spec("tensorboard") is None:
        raise ValueError(f"{path}: event files need tensorboard; run pip install 'plateau-harness[tensorboard]'")


def _open_events(path: Path) -> Any:
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})  # 0: keep all
