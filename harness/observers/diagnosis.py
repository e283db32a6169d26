"""Diagnosis during training."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.events import (
    Diagnosis,
    EvalEnd,
    Event,
    FinalDiagnosis,
    Observer,
    PastRecord,
    RunEnd,
    RunStart,
    Spike,
)
from harness.core.paths import project_dir
from harness.diagnosis.assessment import assess
from harness.diagnosis.dialects import render_suggestions
from harness.diagnosis.expectations import KIND as EXPECTATION_KIND
from harness.diagnosis.expectations import parse_expectation, summarize_expectations
from harness.diagnosis.history import SpikeRecord
from harness.diagnosis.live import LiveDiagnosis
from harness.diagnosis.run_facts import extract_run_facts
from harness.diagnosis.thresholds import change_thresholds
from harness.record import results_file
from harness.record.lr_range_file import add_data_digest, load_lr_band
from harness.record.metric_rows import MetricAggregator
from harness.record.past_record import read_diagnosis, read_spike

FILE_NAME = "diagnoses.json"
COLUMNS = ("kind", "step", "confidence", "reason", "try")


class DiagnosisObserver(Observer):
    """Diagnose the run after every evaluation and spike, and at its end.

    It returns each diagnosis once, when it first holds, and a FinalDiagnosis before RunEnd. List it first in the
    configuration, so that the other observers receive diagnoses before the next event.
    """

    def __init__(self, thresholds: Mapping[str, float] | None = None, expect: Sequence[str] = ()) -> None:
        self._live = LiveDiagnosis(change_thresholds(thresholds or {}), [parse_expectation(text) for text in expect])
        self._history = self._live.history
        self._aggregator = MetricAggregator()
        self._is_due = False

    def __call__(self, event: Event) -> list[Diagnosis | FinalDiagnosis]:
        reports: list[Diagnosis | FinalDiagnosis] = []
        if self._is_due and not isinstance(event, RunEnd):  # all observers have seen the evaluation or spike by now
            reports += self._save_new(self._live.diagnose_now())
            self._is_due = False
        self._record_event(event)
        if isinstance(event, RunEnd) and event.status != "paused":
            reports += self._conclude()
        return reports

    def _record_event(self, event: Event) -> None:
        row = self._aggregator(event)
        history = self._history
        match event:
            case RunStart():
                self._folder: Path = event.folder
                outputs = project_dir() / event.params.get("output_dir", "outputs")
                band = load_lr_band(outputs, add_data_digest(event.params, event.dataset))
                facts = extract_run_facts(event.name, event.params, event.effective, event.constants, event.dataset)
                history.facts = replace(facts, lr_band=band)
                if event.past is not None:
                    self._restore(event.past)
            case EvalEnd():
                self._is_due = event.step > 0
                history.checkpoints += [event.step] if math.isfinite(event.val_loss) else []
                history.facts = replace(history.facts, unit=event.metrics["loss"].unit)
            case Spike(step, last_good_step, loss, baseline_loss, restored_step, example_range=example_range):
                self._is_due = True
                history.spikes.append(
                    SpikeRecord(step, last_good_step, loss, baseline_loss, example_range, restored_step)
                )
            case RunEnd():
                history.facts = replace(history.facts, status=event.status)
        if row is not None:
            history.add_row(row.step, row.metrics)

    def _restore(self, past: PastRecord) -> None:
        """Restore the history of a continued run, and what was found in it."""
        history = self._history
        for entry in past.entries:
            match entry["kind"]:
                case "metrics":
                    history.add_row(entry["step"], entry["metrics"])
                    val_loss = entry["metrics"].get("val/loss", math.nan)
                    history.checkpoints += [entry["step"]] if math.isfinite(val_loss) else []
                    unit = entry["units"].get("val/loss", history.facts.unit)
                    history.facts = replace(history.facts, unit=unit)
                    self._is_due = "val/loss" in entry["metrics"] and 0 < entry["step"] == past.step
                case "spike":
                    history.spikes.append(read_spike(entry))
                    self._is_due = True
                case "diagnosis":
                    self._live.keep_new([read_diagnosis(entry["diagnosis"])])

    def _save_new(self, diagnoses: Iterable[Diagnosis]) -> list[Diagnosis]:
        """Return the diagnoses that were not found before, and save all found so far."""
        new = self._live.keep_new(diagnoses)
        if new:
            self._save(self._live.found)
        return new

    def _conclude(self) -> Iterator[Diagnosis | FinalDiagnosis]:
        live = self._live
        current = live.diagnose_now()
        yield from self._save_new(current)
        if live.found:
            self._save(current)
        results = [expectation.evaluate(self._history) for expectation in live.expectations]
        problems = [diagnosis for diagnosis in current if diagnosis.kind != EXPECTATION_KIND]
        lines = assess(self._history, live.thresholds, problems).lines(has_diagnoses=bool(problems))
        resolved = live.find_resolved(current)
        yield FinalDiagnosis(tuple(current), tuple(resolved), summarize_expectations(results), tuple(lines))

    def _save(self, diagnoses: Sequence[Diagnosis]) -> None:
        rows = [
            (one.kind, one.step, one.confidence, one.reason, "; ".join(render_suggestions(one.suggestions)))
            for one in diagnoses
        ]
        evidence = {f"{one.kind} at {one.step}": dict(one.evidence) for one in diagnoses}
        step = self._history.last_step
        results_file.write_result(
            self._folder, FILE_NAME, step=step, metrics={}, units={}, columns=COLUMNS, rows=rows, about=evidence
        )
