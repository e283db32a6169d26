"""Diagnosis of a run that is under way: each finding is returned once, when it first holds."""

from collections.abc import Iterable, Iterator, Sequence

from harness.core.events import Diagnosis
from harness.diagnosis import diagnose
from harness.diagnosis.dialects import Dialect, guess_dialect
from harness.diagnosis.expectations import KIND as EXPECTATION_KIND
from harness.diagnosis.expectations import Expectation, find_missed_expectations
from harness.diagnosis.history import History
from harness.diagnosis.kinds import LENGTH_KINDS
from harness.diagnosis.render import format_suggestions
from harness.diagnosis.thresholds import Thresholds

SETTLING_GROWTH = 1.5  # of a run of unknown length that goes on, in which LENGTH_KINDS have to hold
SETTLED_ROWS, SETTLED_EVALS = 100, 10  # of such a run, of which one is enough: a warm-up may be flat


class LiveDiagnosis:
    """A growing history and what was already found in it."""

    def __init__(self, thresholds: Thresholds | None = None, expectations: Sequence[Expectation] = ()) -> None:
        self.thresholds, self.expectations = thresholds or Thresholds(), expectations
        self.history = History()
        self.found: list[Diagnosis] = []  # everything so far, in the order in which it was found
        self._first_steps: dict[str, int] = {}  # at which each kind that holds now was first seen

    def diagnose_now(self) -> list[Diagnosis]:
        """Return all that holds now, root causes first."""
        missed = find_missed_expectations(self.expectations, self.history)
        return [*diagnose(self.history, self.thresholds), *missed]

    def select_settled(self, current: Sequence[Diagnosis], has_length: bool) -> list[Diagnosis]:
        """Return what is not likely to pass as the run goes on; `current` is all that holds now.

        A run whose length is known, or that has ended, needs no time to settle. In another one, what depends on the
        length has to hold while the steps grow by half, and not at its very start.
        """
        step = self.history.last_step
        self._first_steps = {one.kind: self._first_steps.get(one.kind, step) for one in current}
        if has_length:
            return list(current)
        rows, evaluations = (len(self.history[name]) for name in ("train/loss", "val/loss"))
        has_begun = rows >= SETTLED_ROWS or evaluations >= SETTLED_EVALS
        return [
            one
            for one in current
            if one.kind not in LENGTH_KINDS or (has_begun and step >= SETTLING_GROWTH * self._first_steps[one.kind])
        ]

    def keep_new(self, diagnoses: Iterable[Diagnosis]) -> list[Diagnosis]:
        """Return the diagnoses that were not found before, and remember them."""
        new: list[Diagnosis] = []
        for diagnosis in diagnoses:
            at = next((at for at, known in enumerate(self.found) if _is_same_finding(diagnosis, known)), None)
            if at is None:
                self.found.append(diagnosis)
                new.append(diagnosis)
            elif diagnosis.kind == "spike":  # it may rise further
                self.found[at] = diagnosis
        return new

    def find_resolved(self, current: Iterable[Diagnosis]) -> list[Diagnosis]:
        """Return what was found earlier and is not of the kind of any current diagnosis."""
        kinds = {diagnosis.kind for diagnosis in current}
        return [diagnosis for diagnosis in self.found if diagnosis.kind not in kinds]


def format_new_diagnosis(diagnosis: Diagnosis, history: History, dialect: Dialect | None = None) -> Iterator[str]:
    """Yield a finding, and what to try in lines of their own, in the words of the run's program by default."""
    yield f"diagnosis · {history.describe_step(diagnosis.step)} · {diagnosis.kind}: {diagnosis.reason}"
    yield from format_suggestions(diagnosis, "    ", dialect or guess_dialect(history.facts))


def _is_same_finding(diagnosis: Diagnosis, known: Diagnosis) -> bool:
    """Return whether both are of one kind and, if that can be found several times, of the same place.

    The start and the peak of a spike move while it rises, so that spikes are the same if they overlap.
    """
    if diagnosis.kind != known.kind:
        return False
    if diagnosis.kind == EXPECTATION_KIND:
        return diagnosis.evidence["expectation"] == known.evidence["expectation"]
    if diagnosis.kind == "spike":
        return not (diagnosis.step < _get_start(known) or known.step < _get_start(diagnosis))
    return True


def _get_start(spike: Diagnosis) -> float:
    return float(spike.evidence.get("last good step", spike.step))
