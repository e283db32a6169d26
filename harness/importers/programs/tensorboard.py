"""TensorBoard event files of any program."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from harness.core.files import check_regular_file
from harness.core.formatting import format_bytes
from harness.diagnosis.history import History, RunFacts
from harness.importers.metric_aliases import SPLIT_WORDS, build_history

MAX_EVENT_BYTES = 10**9
KERAS_LOSS = "epoch_loss"  # recorded at epochs


def read_tensorboard(path: Path, parts: Sequence[Path] = ()) -> History:
    """Read the scalars of one event file, or of all in a folder and in `parts`, folders of the same run.

    The names of the parts say what is in them: `train` and `validation` (Keras), or `Loss_train` (`add_scalars`).

    Raises:
        ValueError: If tensorboard is not installed, or no tag names a loss.
    """
    if find_spec("tensorboard") is None:
        raise ValueError(f"{path}: event files need tensorboard; run pip install 'plateau-harness[tensorboard]'")
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
