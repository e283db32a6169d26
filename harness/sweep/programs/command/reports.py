"""Values that the program of a trial passes to `harness.sweep.report`, through a file in the trial's folder."""

import json
import time
from contextlib import suppress
from pathlib import Path

from harness.importers.named_values.curves import CurvePoint, Moment, NamedCurve
from harness.importers.named_values.value_names import ValueName
from harness.sweep.reporting import PRUNED_LINE, PRUNED_SUFFIX, REPORTS_VARIABLE

REPORTS_FILE = "reports.jsonl"
REPORTED = "report()"
"""The name of reported values where the name of a metric stands."""


class ReportReader:
    """Reads the reports of a program while it runs, and makes its next one raise Pruned."""

    def __init__(self, folder: Path) -> None:
        self._path = folder.absolute() / REPORTS_FILE
        self._offset = 0
        self.curve = NamedCurve(ValueName(REPORTED))
        self.has_raised = False  # Pruned, in the program
        self._pruned_at: float | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variable by which the program finds its file."""
        return {REPORTS_VARIABLE: str(self._path)}

    def read_new_points(self) -> list[CurvePoint]:
        """Return what was reported since the last call."""
        known = len(self.curve)
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._offset)
            while (line := file.readline()).endswith(b"\n"):
                self._offset += len(line)
                with suppress(ValueError, TypeError, KeyError, ArithmeticError):  # a line that report() has not written
                    self._read_line(line)
        return list(self.curve.iterate_points(known))

    def end_program(self, seconds: float) -> bool:
        """Let the next report raise Pruned; return whether the program has run on for `seconds` since the first call.

        Programs that have not reported need not be waited for.
        """
        if not len(self.curve):
            return True
        if self._pruned_at is None:
            self._pruned_at = time.monotonic()
            self._path.with_suffix(PRUNED_SUFFIX).touch()
        return time.monotonic() >= self._pruned_at + seconds

    def _read_line(self, line: bytes) -> None:
        report = json.loads(line)
        if report == PRUNED_LINE:
            self.has_raised = True
            return
        step, total = int(report["step"]), report["total_steps"]
        share = None if total is None else min(1.0, step / total)
        self.curve.add(float(report["value"]), Moment(step, share))
