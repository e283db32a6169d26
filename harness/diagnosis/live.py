"""Diagnosis of a run that is under way: each finding is returned once, when it first holds."""

from collections.abc import Iterable, Sequence

from harness.core.events import Diagnosis
from harness.diagnosis import diagnose
from harness.diagnosis.expectations import KIND as EXPECTATION_KIND
from harness.diagnosis.expectations import Expectation, find_missed_expectations
from harness.diagnosis.history import History
from harness.diagnosis.thresholds import Thresholds


class LiveDiagnosis:
    """A growing history and what was already found in it."""

    def __init__(self, thresholds: Thresholds | None = None, expectations: Sequence[Expectation] = ()) -> None:
        self.thresholds, self.expectations = thresholds or Thresholds(), expectations
        self.history = History()
        self.found: list[Diagnosis] = []  # everything so far, in the order in which it was found

    def diagnose_now(self) -> list[Diagnosis]:
        """Return all that holds now, root causes first."""
        missed = find_missed_expectations(self.expectations, self.history)
        return [*diagnose(self.history, self.thresholds), *missed]

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
