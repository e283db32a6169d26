"""The mathematics of diagnosis: what may be said of a run from its curves, live or long after."""

from harness.events import Verdict
from harness.verdicts.history import History
from harness.verdicts.thresholds import Thresholds


def diagnose(history: History, limits: Thresholds | None = None) -> list[Verdict]:
    """All that holds of the run so far, what explains the most first; none for one that is as it should be."""
    return []
