"""TensorBoard's event files, whoever wrote them."""

import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from harness.diagnosis.history import History, RunFacts
from harness.importers.metric_aliases import build_history


def read_tensorboard(folder: Path) -> History:
    """The scalars of the event files in `folder`, or of one such file; ValueError where tensorboard is not installed
    or there is no loss among them."""
    if find_spec("tensorboard") is None:
        raise ValueError(f"{folder}: to read event files, install tensorboard: pip install -e '.[tensorboard]'")
    points = _read_scalars(folder)
    history = build_history(points, RunFacts(name=folder.name))
    if not len(history["train/loss"]) and not len(history["val/loss"]):
        raise ValueError(f"{folder}: no tag of these events names a loss; they have {', '.join(points) or 'none'}")
    count = sum(map(len, points.values()))
    history.facts = replace(history.facts, source=f"TensorBoard events {folder}: {count} points of {len(points)} tags")
    return history


def _read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """By tag; a scalar may be held as a tensor, as TensorFlow 2 and JAX write them."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    points = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in events.Tags()["tensors"]:
        arrays = [(e.step, make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        if all(array.ndim == 0 and array.dtype.kind == "f" for _, array in arrays):
            points[tag] = [(step, float(array)) for step, array in arrays]
    return points
