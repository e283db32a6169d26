"""The observer that diagnoses a run during training."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.events import Diagnosis, EvalEnd, Event, FinalDiagnosis, Observer, RunEnd, Spike
from harness.observers.composite import CompositeObserver
from harness.observers.console import ConsolePrinter
from harness.observers.diagnosis import FILE_NAME, DiagnosisObserver
from harness.observers.metrics_writer import MetricsWriter
from harness.observers.mlflow import DeferredMlflowUpload
from harness.record import metrics_file
from harness.tracking.run_uploader import upload_run
from tests.observers.sample_events import run_end, run_start, sample_run, step_end
from tests.tracking.stores import new_store, only_run

EXPECT = ["step 10: val/loss < 2", "step 10: val/loss < 4", "tokens 1e9: val/loss < 1"]


class EventRecorder(Observer):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of_type(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def observe(events: Iterator[Event], *observers: Observer) -> EventRecorder:
    """Send events to a diagnosis observer, to these observers and to a recorder, which is returned."""
    recorder = EventRecorder()
    everyone = CompositeObserver([DiagnosisObserver(expect=EXPECT), *observers, recorder])
    for event in events:
        everyone(event)
    everyone.close()
    return recorder


def test_diagnosis_follows_its_evaluation_and_the_final_one_precedes_the_end(tmp_path) -> None:
    recorder = observe(sample_run(tmp_path))
    kinds = [type(event).__name__ for event in recorder.events]
    at = kinds.index("Diagnosis")
    assert isinstance(recorder.events[at - 1], EvalEnd)
    assert recorder.events[at - 1].step == 10
    assert kinds.count("Diagnosis") == 1
    assert kinds[-2:] == ["FinalDiagnosis", "RunEnd"]


def test_missed_expectation_is_reported_at_its_step_and_summarized_at_the_end(tmp_path) -> None:
    recorder = observe(sample_run(tmp_path))
    [diagnosis] = recorder.of_type(Diagnosis)
    assert (diagnosis.kind, diagnosis.step, diagnosis.evidence["expectation"]) == ("expectation", 10, EXPECT[0])
    [final] = recorder.of_type(FinalDiagnosis)
    assert final.diagnoses == (diagnosis,)
    assert final.expectations.startswith("1 of 3 expectations met, 1 missed, 1 not reached")


def test_spike_is_reported_at_once_with_its_examples(tmp_path) -> None:
    def spike_run() -> Iterator[Event]:
        yield run_start(tmp_path, 120, log_every=1)
        for step in range(1, 101):
            yield step_end(step, 2.0 if step < 61 else 9.0, examples=step * 8)
            if step == 63:
                yield Spike(63, 60, 9.0, 2.0, None, 1.0, True, (480, 504))
        yield run_end("interrupted", "enough", 100)

    recorder = observe(spike_run())
    diagnosis = next(event for event in recorder.of_type(Diagnosis) if event.kind == "spike")
    assert recorder.events.index(diagnosis) < recorder.events.index(step_end(65, 9.0, examples=520))
    assert (diagnosis.evidence["from example"], diagnosis.evidence["to example"]) == (480, 504)


def test_console_prints_diagnoses_when_they_occur_and_a_summary(tmp_path, capsys) -> None:
    observe(sample_run(tmp_path), ConsolePrinter())
    lines = capsys.readouterr().out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("step 10 · expectation: "))
    assert lines[at - 1].startswith("step 10 · val loss")
    summary = lines.index("diagnosis   1 found, root causes first")
    assert lines[summary + 1] == "  expectation · step 10 · confidence 100%"
    assert lines[summary + 2].startswith("    expected 'step 10: val/loss < 2', got")
    assert any(line.startswith("1 of 3 expectations met") for line in lines[summary:])


def test_end_of_a_run_says_the_slopes_and_what_was_not_judged(tmp_path, capsys) -> None:
    recorder = observe(sample_run(tmp_path), ConsolePrinter())
    [final] = recorder.of_type(FinalDiagnosis)
    [conclusion, *slopes, unjudged] = final.assessment
    assert conclusion.startswith("too few points to say anything: ")
    assert all(line.startswith("slope of ") for line in slopes)
    assert unjudged.startswith("not judged: ")
    printed = capsys.readouterr().out
    assert all(line in printed for line in final.assessment)  # whole lines in a file, for grep
    assert "no problems found" not in printed


def test_record_and_mlflow_have_diagnoses_as_lines_tags_and_a_table(tmp_path, monkeypatch) -> None:
    store, folder = new_store(tmp_path), tmp_path / "a run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    observe(sample_run(folder), DeferredMlflowUpload(store), MetricsWriter())
    kinds = [entry["kind"] for entry, _ in metrics_file.read_entries(folder / metrics_file.METRICS_FILE)]
    assert [kind for kind in kinds if "diagnosis" in kind] == ["diagnosis", "final_diagnosis"]
    rows = json.loads((folder / FILE_NAME).read_text())["rows"]
    assert rows[0][:2] == ["expectation", 10]
    upload_run(folder)
    _, run = only_run(store)
    assert run.data.tags["diagnosis.expectation"] == "step 10, 100%"
    assert "**expectation** at step 10 (100%): expected" in run.data.tags["mlflow.note.content"]
    assert run.data.tags["expectations"].startswith("1 of 3")
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert {"diagnoses.json", "diagnoses_table.json"} <= {path.name for path in artifacts.iterdir()}


def test_invalid_expectation_is_rejected() -> None:
    with pytest.raises(ValueError, match="'soon' is not a valid expectation; write 'step 1500: "):
        DiagnosisObserver(expect=["soon"])


def test_diagnoses_still_reach_others_after_an_observer_raised(tmp_path, capsys) -> None:
    class FailingObserver(Observer):
        def __call__(self, event: Event) -> None:
            if isinstance(event, Diagnosis):
                raise RuntimeError("no")

    recorder = observe(sample_run(tmp_path), FailingObserver())
    assert "FailingObserver" in capsys.readouterr().err
    assert isinstance(recorder.events[-1], RunEnd)
