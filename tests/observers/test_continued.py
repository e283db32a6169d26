"""Observers of a run that is paused and continued conclude once, over the whole curve."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.events import Event, FinalDiagnosis, RunStart, StepEnd
from harness.observers.composite import CompositeObserver
from harness.observers.console import ConsolePrinter
from harness.observers.diagnosis import DiagnosisObserver
from harness.observers.figures import FigureWriter
from harness.observers.metrics_writer import MetricsWriter
from harness.observers.tensorboard import TensorBoardWriter
from harness.record.metrics_file import METRICS_FILE, read_entries
from harness.record.past_record import encode_position, read_past_record
from tests.observers.sample_events import run_end, sample_run
from tests.observers.test_diagnosis import EXPECT, EventRecorder


def observe(events: Iterator[Event], until: int | None = None) -> tuple[EventRecorder, dict]:
    """Send events to all observers, pause after the step `until`, and return what they saw and where they stand."""
    recorder, writer = EventRecorder(), MetricsWriter()
    observers = [DiagnosisObserver(expect=EXPECT), ConsolePrinter(), writer, FigureWriter(), TensorBoardWriter()]
    everyone = CompositeObserver([*observers, recorder])
    for event in events:
        if until is not None and isinstance(event, StepEnd) and event.step > until:
            break
        everyone(event)
    everyone.flush()
    position = writer.describe_position(until or 20, 3.5)
    if until is not None:
        everyone(run_end("paused", "at a rung", until))
    everyone.close()
    assert len(recorder.events) > 1
    assert position is not None
    return recorder, encode_position(position)


def read_kinds(folder: Path) -> list[str]:
    return [entry["kind"] for entry, _ in read_entries(folder / METRICS_FILE) if entry["kind"] != "continued"]


@pytest.mark.parametrize("until", [10, 13])  # an evaluation, whose diagnosis is due next, and steps without a row
def test_pause_draws_no_conclusion_and_the_end_draws_the_same(until: int, tmp_path: Path, capsys) -> None:
    whole, folder = tmp_path / "whole" / "run", tmp_path / "paused" / "run"
    straight, _ = observe(sample_run(whole))
    capsys.readouterr()
    paused, position = observe(sample_run(folder), until)
    assert not paused.of_type(FinalDiagnosis)
    assert not (folder / "figures").exists()
    assert "paused (at a rung)" in capsys.readouterr().out
    past = read_past_record(folder / METRICS_FILE, until, position)

    def rest() -> Iterator[Event]:
        for event in sample_run(folder):
            if isinstance(event, RunStart):
                yield replace(event, past=past)
            elif getattr(event, "step", 0) > until:
                yield event

    continued, _ = observe(rest())
    assert continued.of_type(FinalDiagnosis) == straight.of_type(FinalDiagnosis)
    assert read_kinds(folder) == read_kinds(whole)
    assert f"continued at step {until} of 20" in capsys.readouterr().out
    for name in ("loss", "lr", "grad_norm"):
        one, other = ((place / "figures" / f"{name}.png").read_bytes() for place in (folder, whole))
        assert one == other
