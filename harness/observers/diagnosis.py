"""What may be said of the run while it goes on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.events import Conclusion, EvalEnd, Event, Observer, RunEnd, RunStart, Spike, Verdict
from harness.diagnosis import diagnose
from harness.diagnosis.expectations import missed, parse, score
from harness.diagnosis.history import History, Spiked
from harness.diagnosis.lr_band import find_band
from harness.diagnosis.run_facts import facts_of
from harness.diagnosis.thresholds import Thresholds
from harness.record import results_file
from harness.record.metric_rows import Window
from harness.tracking.store_uri import PROJECT

NAME = "verdicts.json"
COLUMNS = ("kind", "step", "confidence", "reason", "try")


class Diagnosis(Observer):
    """Answers with each verdict once, when it first holds: after an evaluation or a spike, and before the end; and at
    the end with all that hold then. Comes first, so that others hear of it in time."""

    def __init__(self, thresholds: Mapping[str, float] | None = None, expect: Sequence[str] = ()) -> None:
        self._limits = Thresholds(**(thresholds or {}))
        self._expected = [parse(text) for text in expect]
        self._window = Window()
        self._told: dict[tuple[str, str], Verdict] = {}
        self._is_due = False

    def __call__(self, event: Event) -> list[Verdict | Conclusion]:
        said: list[Verdict | Conclusion] = []
        if self._is_due and not isinstance(event, RunEnd):  # after the event that it is about was shown to all
            said += self._new(self._holding())
            self._is_due = False
        self._take(event)
        if isinstance(event, RunEnd):
            said += self._conclude()
        return said

    def _take(self, event: Event) -> None:
        row = self._window(event)
        match event:
            case RunStart():
                self._folder: Path = event.folder
                facts = facts_of(event.name, event.params, event.constants)
                outputs = PROJECT / event.params.get("output_dir", "outputs")
                self._history = History(replace(facts, lr_band=find_band(outputs, event.params)))
            case EvalEnd():
                self._is_due = event.step > 0
                self._history.checkpoints += [event.step] if math.isfinite(event.val_loss) else []
                self._history.facts = replace(self._history.facts, unit=event.metrics["loss"].unit)
            case Spike():
                self._is_due = True
                self._history.spikes.append(
                    Spiked(event.step, event.began_at, event.loss, event.usual, event.examples, event.back_to)
                )
            case RunEnd():
                self._history.facts = replace(self._history.facts, status=event.status)
        if row is not None:
            self._history.add(row.step, row.metrics)

    def _holding(self) -> list[Verdict]:
        return [*diagnose(self._history, self._limits), *missed(self._expected, self._history)]

    def _new(self, holding: Sequence[Verdict]) -> list[Verdict]:
        """Those that were not told before; what was is kept with the run."""
        new = {_key(verdict): verdict for verdict in holding if _key(verdict) not in self._told}
        self._told |= new
        if new:
            self._write(list(self._told.values()))
        return list(new.values())

    def _conclude(self) -> Iterator[Verdict | Conclusion]:
        holding = self._holding()
        yield from self._new(holding)
        if self._told:
            self._write(holding)
        kinds = {verdict.kind for verdict in holding}
        passed = [verdict for verdict in self._told.values() if verdict.kind not in kinds]
        judged = [expected.judge(self._history) for expected in self._expected]
        yield Conclusion(tuple(holding), tuple(passed), score(judged))

    def _write(self, verdicts: Sequence[Verdict]) -> None:
        rows = [(one.kind, one.step, one.confidence, one.reason, " ".join(one.overrides)) for one in verdicts]
        about = {f"{one.kind} at {one.step}": dict(one.evidence) for one in verdicts}
        step = self._history.last_step
        results_file.write(self._folder, NAME, step=step, metrics={}, units={}, columns=COLUMNS, rows=rows, about=about)


def _key(verdict: Verdict) -> tuple[str, str]:
    """What is said once: of a forecast and of a spike each one, of all else the kind."""
    return verdict.kind, str(verdict.evidence.get("forecast", verdict.evidence.get("began at", "")))
