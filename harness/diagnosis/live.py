"""Diagnosis of a run that is under way: each finding is returned once, when it first holds."""

from collections.abc import Iterable, Sequence

from harness.core.events import Diagnosis
from harness.diagnosis import diagnose
from harness.diagnosis.expectations import Expectation, find_missed_expectations
from harness.diagnosis.history import History
from harness.diagnosis.thresholds import Thresholds


class LiveDiagnosis:
    """A growing history and what was already found in it."""

    def __init__(self, thresholds: Thresholds | None = None, expectations: Sequence[Expectation] = ()) -> None:
        self.thresholds, self.expectations = thresholds or Thresholds(), expectations
        self.history = History()
        self._found: dict[tuple[str, str], Diagnosis] = {}

    @property
    def found(self) -> list[Diagnosis]:
        """Return everything found so far, in the order in which it was found."""
        return list(self._found.values())

    def diagnose_now(self) -> list[Diagnosis]:
        """Return all that holds now, root causes first."""
        missed = find_missed_expectations(self.expectations, self.history)
        return [*diagnose(self.history, self.thresholds), *missed]

    def keep_new(self, diagnoses: Iterable[Diagnosis]) -> list[Diagnosis]:
        """Return the diagnoses that were not found before, and remember them."""
        new = {_identify(diagnosis): diagnosis for diagnosis in diagnoses}
        new = {key: diagnosis for key, diagnosis in new.items() if key not in self._found}
        self._found |= new
        return list(new.values())

    def find_resolved(self, current: Iterable[Diagnosis]) -> list[Diagnosis]:
        """Return what was found earlier and is not of the kind of any current diagnosis."""
        kinds = {diagnosis.kind for diagnosis in current}
        return [diagnosis for diagnosis in self.found if diagnosis.kind not in kinds]


def _identify(diagnosis: Diagnosis) -> tuple[str, str]:
    """Return what is found once: each kind, and each missed expectation and each spike."""
    distinction = {"expectation": "expectation", "spike": "last good step"}.get(diagnosis.kind, "")
    return diagnosis.kind, str(diagnosis.evidence.get(distinction, ""))
