"""What may be said of a run is heard by all, once, in time, and kept with it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.events import Diagnosis, Event, FinalDiagnosis, Observer, RunEnd, Spike
from harness.observers.composite import CompositeObserver
from harness.observers.console import ConsolePrinter
from harness.observers.diagnosis import FILE_NAME, DiagnosisObserver
from harness.observers.metrics_writer import MetricsWriter
from harness.observers.mlflow import DeferredMlflowUpload
from harness.record import metrics_file
from harness.tracking.run_uploader import upload_run
from tests.observers.sample_events import eval_end, run_end, run_start, sample_run, step_end
from tests.tracking.stores import new_store, only_run

EXPECT = ["step 10: val/loss < 2", "step 10: val/loss < 4", "tokens 1e9: val/loss < 1"]


class Memory(Observer):
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.heard.append(event)


def broadcast(events: Iterator[Event], *observers: Observer) -> None:
    everyone = CompositeObserver(observers)
    for event in events:
        everyone(event)
    everyone.close()


def test_a_verdict_follows_the_evaluation_that_it_is_about_and_the_conclusion_comes_before_the_end(tmp_path) -> None:
    memory = Memory()
    broadcast(sample_run(tmp_path), DiagnosisObserver(expect=EXPECT), memory)
    kinds = [type(event).__name__ for event in memory.heard]
    said = kinds.index("Diagnosis")
    assert memory.heard[said - 1] == eval_end(10, memory.heard[said - 1].val_loss, memory.heard[said - 1].val_loss)
    assert kinds.count("Diagnosis") == 1
    assert kinds[-2:] == ["FinalDiagnosis", "RunEnd"]


def test_forecasts_alarm_when_their_moment_passes_and_are_scored_at_the_end(tmp_path) -> None:
    memory = Memory()
    broadcast(sample_run(tmp_path), DiagnosisObserver(expect=EXPECT), memory)
    [diagnosis] = [event for event in memory.heard if isinstance(event, Diagnosis)]
    assert (diagnosis.kind, diagnosis.step, diagnosis.evidence["expectation"]) == ("expectation", 10, EXPECT[0])
    [conclusion] = [event for event in memory.heard if isinstance(event, FinalDiagnosis)]
    assert conclusion.diagnoses == (diagnosis,)
    assert conclusion.expectations.startswith("1 of 3 expectations met, 1 missed, 1 not reached")


def test_a_spike_is_said_with_the_examples_that_fed_it(tmp_path) -> None:
    memory = Memory()

    def spiked() -> Iterator[Event]:
        yield run_start(tmp_path, 120, log_every=1)
        for step in range(1, 101):
            yield step_end(step, 2.0 if step < 61 else 9.0, examples=step * 8)
            if step == 63:
                yield Spike(63, 60, 9.0, 2.0, None, 1.0, True, (480, 504))
        yield run_end("interrupted", "enough", 100)

    broadcast(spiked(), DiagnosisObserver(), memory)
    found = next(event for event in memory.heard if isinstance(event, Diagnosis) and event.kind == "spike")
    assert memory.heard.index(found) < memory.heard.index(step_end(65, 9.0, examples=520))
    assert "480" in f"{found.reason} {found.evidence}"


def test_the_terminal_shows_a_verdict_when_it_comes_and_a_table_at_the_end(tmp_path, capsys) -> None:
    broadcast(sample_run(tmp_path), DiagnosisObserver(expect=EXPECT), ConsolePrinter())
    lines = capsys.readouterr().out.splitlines()
    said = next(index for index, line in enumerate(lines) if line.startswith("step 10 · expectation: "))
    assert lines[said - 1].startswith("step 10 · val loss")
    table = lines.index("diagnosis   1 found, root causes first")
    assert "100%  expected 'step 10: val/loss < 2', got" in lines[table + 1]
    assert any(line.startswith("expectations 1 of 3 expectations met") for line in lines[table:])


def test_the_record_and_mlflow_hold_the_verdicts_as_lines_tags_and_a_table(tmp_path) -> None:
    store, folder = new_store(tmp_path), tmp_path / "a run"
    broadcast(sample_run(folder), DiagnosisObserver(expect=EXPECT), DeferredMlflowUpload(store), MetricsWriter())
    lines = [entry for entry, _ in metrics_file.read_entries(folder / metrics_file.METRICS_FILE)]
    assert [line["kind"] for line in lines if line["kind"] in ("diagnosis", "final_diagnosis", "end")] == [
        "diagnosis", "final_diagnosis", "end"
    ]  # fmt: skip
    kept = json.loads((folder / FILE_NAME).read_text())
    assert kept["rows"][0][:2] == ["expectation", 10]
    upload_run(folder)
    _, run = only_run(store)
    assert run.data.tags["diagnosis.expectation"] == "step 10, 100%"
    assert "**expectation** at step 10 (100%): expected" in run.data.tags["mlflow.note.content"]
    assert run.data.tags["expectations"].startswith("1 of 3")
    artifacts = Path(tmp_path / "artifacts" / run.info.run_id / "artifacts")
    assert {"diagnoses.json", "diagnoses_table.json"} <= {path.name for path in artifacts.iterdir()}


def test_a_forecast_that_is_none_is_refused_with_the_grammar() -> None:
    with pytest.raises(ValueError, match="'soon' is not a valid expectation; write 'step 1500: val/loss < 6.65'"):
        DiagnosisObserver(expect=["soon"])


def test_an_observer_that_raises_is_left_out_and_verdicts_still_reach_the_others(tmp_path, capsys) -> None:
    class Broken(Observer):
        def __call__(self, event: Event) -> None:
            if isinstance(event, Diagnosis):
                raise RuntimeError("no")

    memory = Memory()
    broadcast(sample_run(tmp_path), DiagnosisObserver(expect=EXPECT), Broken(), memory)
    assert "observer Broken is disabled" in capsys.readouterr().err
    assert isinstance(memory.heard[-1], RunEnd)
