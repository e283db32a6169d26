"""What may be said of the run while it goes on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.events import Diagnosis, EvalEnd, Event, FinalDiagnosis, Observer, RunEnd, RunStart, Spike
from harness.core.paths import project_dir
from harness.diagnosis import diagnose
from harness.diagnosis.expectations import find_missed_expectations, parse_expectation, summarize_expectations
from harness.diagnosis.history import History, SpikeRecord
from harness.diagnosis.lr_band import load_lr_band
from harness.diagnosis.run_facts import extract_run_facts
from harness.diagnosis.thresholds import Thresholds
from harness.record import results_file
from harness.record.metric_rows import MetricAggregator

FILE_NAME = "diagnoses.json"
COLUMNS = ("kind", "step", "confidence", "reason", "try")


class DiagnosisObserver(Observer):
    """Answers with each diagnosis once, when it first holds: after an evaluation or a spike, and before the end; and at
    the end with all that hold then. Comes first, so that others hear of it in time."""

    def __init__(self, thresholds: Mapping[str, float] | None = None, expect: Sequence[str] = ()) -> None:
        self._limits = Thresholds(**(thresholds or {}))
        self._expected = [parse_expectation(text) for text in expect]
        self._window = MetricAggregator()
        self._told: dict[tuple[str, str], Diagnosis] = {}
        self._is_due = False

    def __call__(self, event: Event) -> list[Diagnosis | FinalDiagnosis]:
        said: list[Diagnosis | FinalDiagnosis] = []
        if self._is_due and not isinstance(event, RunEnd):  # after the event that it is about was shown to all
            said += self._keep_new(self._diagnose_now())
            self._is_due = False
        self._record_event(event)
        if isinstance(event, RunEnd):
            said += self._conclude()
        return said

    def _record_event(self, event: Event) -> None:
        row = self._window(event)
        match event:
            case RunStart():
                self._folder: Path = event.folder
                facts = extract_run_facts(event.name, event.params, event.effective, event.constants)
                outputs = project_dir() / event.params.get("output_dir", "outputs")
                self._history = History(replace(facts, lr_band=load_lr_band(outputs, event.params)))
            case EvalEnd():
                self._is_due = event.step > 0
                self._history.checkpoints += [event.step] if math.isfinite(event.val_loss) else []
                self._history.facts = replace(self._history.facts, unit=event.metrics["loss"].unit)
            case Spike():
                self._is_due = True
                self._history.spikes.append(
                    SpikeRecord(
                        event.step,
                        event.last_good_step,
                        event.loss,
                        event.baseline_loss,
                        event.example_range,
                        event.restored_step,
                    )
                )
            case RunEnd():
                self._history.facts = replace(self._history.facts, status=event.status)
        if row is not None:
            self._history.add_row(row.step, row.metrics)

    def _diagnose_now(self) -> list[Diagnosis]:
        return [*diagnose(self._history, self._limits), *find_missed_expectations(self._expected, self._history)]

    def _keep_new(self, holding: Sequence[Diagnosis]) -> list[Diagnosis]:
        """Those that were not told before; what was is kept with the run."""
        new = {_identify(diagnosis): diagnosis for diagnosis in holding if _identify(diagnosis) not in self._told}
        self._told |= new
        if new:
            self._write_results(list(self._told.values()))
        return list(new.values())

    def _conclude(self) -> Iterator[Diagnosis | FinalDiagnosis]:
        holding = self._diagnose_now()
        yield from self._keep_new(holding)
        if self._told:
            self._write_results(holding)
        kinds = {diagnosis.kind for diagnosis in holding}
        passed = [diagnosis for diagnosis in self._told.values() if diagnosis.kind not in kinds]
        judged = [expected.evaluate(self._history) for expected in self._expected]
        yield FinalDiagnosis(tuple(holding), tuple(passed), summarize_expectations(judged))

    def _write_results(self, diagnoses: Sequence[Diagnosis]) -> None:
        rows = [(one.kind, one.step, one.confidence, one.reason, " ".join(one.overrides)) for one in diagnoses]
        about = {f"{one.kind} at {one.step}": dict(one.evidence) for one in diagnoses}
        step = self._history.last_step
        results_file.write_result(
            self._folder, FILE_NAME, step=step, metrics={}, units={}, columns=COLUMNS, rows=rows, about=about
        )


def _identify(diagnosis: Diagnosis) -> tuple[str, str]:
    """What is said once: of a forecast and of a spike each one, of all else the kind."""
    return diagnosis.kind, str(diagnosis.evidence.get("expectation", diagnosis.evidence.get("began at", "")))
