"""TensorBoard event files against metrics.jsonl."""

import sys
from pathlib import Path

import pytest

from harness.observers.metrics_writer import MetricsWriter
from harness.observers.tensorboard import TensorBoardWriter
from harness.record import metrics_file
from tests.observers.sample_events import sample_run, send_events


def test_event_files_hold_the_rows_of_the_metrics_file(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    send_events([MetricsWriter(), TensorBoardWriter()], sample_run(tmp_path))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = [
        entry
        for entry, _ in metrics_file.read_entries(tmp_path / metrics_file.METRICS_FILE)
        if entry["kind"] == "metrics"
    ]
    assert set(events.Tags()["scalars"]) == {name for row in rows for name in row["metrics"]}
    for name in ("train/loss", "val/loss", "constant/uniform"):
        expected = [(row["step"], row["metrics"][name]) for row in rows if name in row["metrics"]]
        assert [(point.step, pytest.approx(point.value)) for point in events.Scalars(name)] == expected


def test_missing_tensorboard(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # makes the import fail
    with pytest.raises(ValueError, match=r"pip install 'plateau-harness\[tensorboard\]'"):
        TensorBoardWriter()
