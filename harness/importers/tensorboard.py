"""TensorBoard event files of any program."""

import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from harness.core.files import check_regular_file
from harness.core.formatting import format_bytes
from harness.diagnosis.history import History, RunFacts
from harness.importers.metric_aliases import build_history

MAX_EVENT_BYTES = 10**9


def read_tensorboard(path: Path) -> History:
    """Read the scalars of one event file or of all in a folder.

    Raises:
        ValueError: If tensorboard is not installed, or no tag names a loss.
    """
    if find_spec("tensorboard") is None:
        raise ValueError(f"{path}: event files need tensorboard; run pip install 'plateau-harness[tensorboard]'")
    _check_event_files(path)
    points = _read_scalars(path)
    history = build_history(points, RunFacts(name=path.name))
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
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0}).Reload()  # 0: keep all
    points = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in events.Tags()["tensors"]:
        arrays = [(e.step, make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        if all(array.ndim == 0 and array.dtype.kind == "f" for _, array in arrays):
            points[tag] = [(step, float(array)) for step, array in arrays]
    return points
