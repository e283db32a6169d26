"""Diagnosis while the loop of another program trains: when to look, what to print, and when to stop.

A look costs milliseconds, so it is taken at evaluations and, between them, at intervals that grow with the run.
"""

import functools
import math
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from harness.core.events import Diagnosis
from harness.core.terminal import print_fitted
from harness.diagnosis.assessment import assess
from harness.diagnosis.history import LOSS_METRICS, History, RunFacts
from harness.diagnosis.kinds import KINDS
from harness.diagnosis.live import LiveDiagnosis, format_new_diagnosis
from harness.importers.metric_aliases import canonical_name
from harness.importers.programs.lr_schedules import schedule_from_curve
from harness.integrations.settled_findings import is_settled

URGENT_KINDS = ("divergence", "spike")
"""Looked for between evaluations, too."""
ALARMING_METRICS = ("train/loss", "val/loss", "train/grad_norm")
"""If one is not finite, it is time to look."""
MIN_BAD_ROWS = {"steps": 5, "rows": 5, "epochs": 2}
"""Rows in a row that are not finite, before a run that goes on has diverged: a gradient scaler skips some steps."""
BAD_NORM_WEIGHT = 1 / 3  # of a row whose loss is finite: at first, a gradient scaler skips ten steps and more
MAX_ERROR_LENGTH = 160  # characters
METRIC_PREFIX = "diagnosis/"  # of the metrics that tell a logger what was found, and when

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass
class LookInterval:
    """Counts events and says which ones are worth a look: less and less often, but for `shortest`."""

    shortest: int  # events between two looks
    growth: float  # the same, as a share of the events so far
    count: int = 0
    looked_at: int = 0

    def count_one(self) -> bool:
        """Count an event; return whether to look."""
        self.count += 1
        is_due = self.count - self.looked_at >= max(self.shortest, self.growth * self.looked_at)
        self.looked_at = self.count if is_due else self.looked_at
        return is_due


def parse_stop_kinds(stop_on: Collection[str] | str) -> frozenset[str]:
    """Return the kinds of diagnoses that end a training.

    Raises:
        TypeError: If it is no collection of names.
        ValueError: For a kind that no rule finds.
    """
    if not isinstance(stop_on, Collection):
        raise TypeError(f'stop_on: {stop_on!r} is no name of a diagnosis; give names such as {{"divergence"}}, or ()')
    kinds = frozenset([stop_on] if isinstance(stop_on, str) else stop_on)
    unknown = sorted(kinds - set(KINDS), key=str)
    if unknown:
        raise ValueError(f"stop_on: {unknown[0]!r} is not a diagnosis; choose from {', '.join(KINDS)}")
    return kinds


def disable_on_error(method: Method) -> Method:
    """Let a method of an object with `is_disabled` never raise: after the first error it does nothing but warn once."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_disabled:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.is_disabled = True
            print(
                f"warning: diagnosis is disabled after {shorten_error(error)}; the training continues", file=sys.stderr
            )
            return None

    return guarded  # type: ignore[return-value]  # the same signature


def shorten_error(error: Exception) -> str:
    """Return the kind of an error and the first line of its text, which in torch has a hundred."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {textwrap.shorten(first, MAX_ERROR_LENGTH, placeholder=' ...')}"


def tag_active_mlflow_run(diagnoses: Iterable[Diagnosis]) -> None:
    """Tag the active MLflow run, if there is one, with the reason of each diagnosis."""
    mlflow = sys.modules.get("mlflow")  # if nobody has loaded it, nobody logs to it
    if mlflow is not None and mlflow.active_run() is not None:
        mlflow.set_tags(describe_as_tags(diagnoses))


def describe_as_tags(diagnoses: Iterable[Diagnosis]) -> dict[str, str]:
    """Return the tag `diagnosis.KIND` of each diagnosis with its step and reason."""
    return {f"diagnosis.{one.kind}": f"step {one.step}, {one.confidence:.0%}: {one.reason}" for one in diagnoses}


def is_not_finite(metrics: Mapping[str, float], names: Collection[str] = ALARMING_METRICS) -> bool:
    """Return whether a loss or the gradient norm is not finite."""
    return any(not math.isfinite(metrics.get(name, 0.0)) for name in names)


class LoopDiagnosis:
    """The history of a training that somebody else's loop runs, and what was said of it."""

    def __init__(
        self,
        facts: RunFacts,
        *,
        stop_on: Collection[str] = (),
        quiet: bool = False,
        write: Callable[[str], None] = print_fitted,
    ) -> None:
        self.stop_kind: str | None = None  # the diagnosis that ends the training
        self.wordings: dict[str, str] = {}  # what is known of this run, for texts of suggestions that fit any run
        self._live, self._facts = LiveDiagnosis(), facts
        self._live.history.facts = facts
        self._stop_on, self._quiet, self._write = stop_on, quiet, write
        self._evaluations, self._alarms = LookInterval(1, 0.05), LookInterval(1, 0.1)
        self._bad_rows, self._has_bad_weights = 0.0, False
        self._rows, self._urgent_rows = LookInterval(20, 0.25), LookInterval(5, 0.05)

    @property
    def history(self) -> History:
        return self._live.history

    @property
    def found(self) -> list[Diagnosis]:
        return self._live.found

    def change_facts(self, **changes: Any) -> None:
        """Note what became known of the run only while it trains."""
        self._facts = replace(self._facts, **changes)

    def has_rows(self) -> bool:
        """Return whether anything was logged."""
        return bool(self.history.metric_names())

    def has_reached_end(self) -> bool:
        """Return whether the next row would be after the end, as far as the length is known."""
        steps, total = self.history["train/loss"].steps, self._facts.total_steps
        gap = int(np.diff(steps).max()) if len(steps) > 1 else 1
        return total is None or self.history.last_step + gap >= total

    def add_row(self, step: int, values: Mapping[str, object]) -> list[Diagnosis]:
        """Add what was logged at `step`, under any known names; return and print what was not found before."""
        metrics = self.select_metrics(values)
        if not metrics:
            return []
        self.history.add_row(step, metrics)
        kinds = self._choose_kinds(step, metrics)
        if not kinds:
            return []
        settled = self._live.select_settled(self._diagnose_now(), self._facts.total_steps is not None)
        current = [one for one in settled if one.kind in kinds]
        return self._report(one for one in current if is_settled(one, self.history, self._facts.total_steps))

    def confirm_divergence(self) -> None:
        """Note that weights are not finite, so that no further rows are needed to tell."""
        self._has_bad_weights = True

    def restore_rows(self, rows: Iterable[tuple[int, Mapping[str, object]]], known: Mapping[str, int]) -> None:
        """Add the rows before a resume. What is of a known kind was printed then, at the step that `known` has."""
        for step, values in rows:
            self.history.add_row(step, metrics := self.select_metrics(values))
            self._choose_kinds(step, metrics)
        if known:
            holding = [one for one in self._diagnose_now() if one.kind in known]
            passed = known.keys() - {one.kind for one in holding}
            past = [Diagnosis(kind, known[kind], 1.0, "found before the run was resumed") for kind in sorted(passed)]
            self._live.keep_new([*holding, *past])

    def conclude(self, is_complete: bool, is_stopped: bool = False) -> list[Diagnosis]:
        """End the run; return and print what was not found before, and print what the curves show.

        `is_stopped` says that the training ended because of a diagnosis in `stop_on`.
        """
        if is_stopped and not self._quiet:
            place = self.history.describe_step(self.history.last_step)
            self._write(f"diagnosis: training stopped at {place}: {self.stop_kind} (stop_on)")
        status = "completed" if is_complete else "interrupted"
        has_length = self._facts.total_steps is not None
        current = self._diagnose_now(status)
        current = self._live.select_settled(current, is_complete or has_length)
        new = self._report(current)
        if not self._quiet:
            for line in self._summarize(current):
                self._write(line)
        return new

    def conclude_late(self) -> None:
        """Print the summary of a training that an error or Ctrl-C ended, when the process ends."""
        with suppress(Exception):
            if self.has_rows() and not self._quiet:
                self.conclude(is_complete=False)

    def give_up(self, reason: str) -> None:
        """Print why the run is not diagnosed."""
        if not self._quiet:
            self._write(f"diagnosis: this run is not diagnosed: {reason}")

    def select_metrics(self, values: Mapping[str, object]) -> dict[str, float]:
        """Return the numbers whose names stand for metrics of ours."""
        metrics: dict[str, float] = {}
        for name, value in values.items():
            metric = canonical_name(name)
            if metric not in (None, "step", "epoch") and isinstance(value, int | float):
                metrics.setdefault(metric, float(value))
        return metrics

    def _choose_kinds(self, step: int, metrics: Mapping[str, float]) -> Collection[str]:
        """Return the kinds to look for after a row; none if it is too early to look again."""
        kinds: Collection[str] = ()
        if "train/loss" in metrics:
            kinds = URGENT_KINDS if self._urgent_rows.count_one() else kinds
            is_due = self._rows.count_one()
            kinds = KINDS if is_due and not self._evaluations.count else kinds
        if "val/loss" in metrics and step > 0:
            kinds = KINDS if self._evaluations.count_one() else kinds
        is_bad, has_losses = is_not_finite(metrics), not is_not_finite(metrics, LOSS_METRICS)
        self._bad_rows = self._bad_rows + (BAD_NORM_WEIGHT if has_losses else 1) if is_bad else 0
        if is_bad:
            kinds = kinds or (URGENT_KINDS if self._alarms.count_one() else ())
        is_unsure = 0 < self._bad_rows < MIN_BAD_ROWS[self._facts.steps_unit] and not self._has_bad_weights
        return [kind for kind in kinds if kind != "divergence" or not is_unsure]

    def _diagnose_now(self, status: str | None = None) -> list[Diagnosis]:
        """Return what holds now. A run of unknown length that goes on is taken to be half done."""
        history, facts = self.history, self._facts
        total = facts.total_steps
        if total is None and status != "completed":
            total = 2 * max(1, history.last_step)
        gaps = np.diff(history["train/loss"].steps)
        history.facts = replace(
            facts,
            total_steps=total,
            status=status,
            log_every=max(1, round(float(np.median(gaps)))) if len(gaps) else facts.log_every,
            schedule=facts.schedule or schedule_from_curve(history["train/lr"]),
        )
        return self._live.diagnose_now()

    def _report(self, diagnoses: Iterable[Diagnosis]) -> list[Diagnosis]:
        """Return and print those that were not found before; note if one ends the training."""
        new = self._live.keep_new(diagnoses)
        for diagnosis in new:
            if not self._quiet:
                self._write(self._format_finding(diagnosis))
            if diagnosis.kind in self._stop_on:
                self.stop_kind = self.stop_kind or diagnosis.kind
        return new

    def _summarize(self, current: list[Diagnosis]) -> Iterator[str]:
        """Yield lines that name what was found, which is printed already, and say what else the curves show."""
        head, *lines = assess(self.history, self._live.thresholds, current).lines(has_diagnoses=False)
        resolved = ", ".join(dict.fromkeys(one.kind for one in self._live.find_resolved(current)))
        if current:
            head = f"{len(current)} found: " + ", ".join(map(self._describe_place, current))
        yield f"diagnosis: {head}" + (f"; no longer: {resolved}" if resolved else "")
        yield from lines

    def _describe_place(self, diagnosis: Diagnosis) -> str:
        """Return the kind and the step, for overfitting as it was printed, and the new best step if it has moved."""
        place = self.history.describe_step(diagnosis.step)
        printed = {one.kind: one for one in self.found if "best step" in one.evidence}.get(diagnosis.kind, diagnosis)
        if printed.step != diagnosis.step:
            place = f"{self.history.describe_step(printed.step)}; best is now {place}"
        return f"{diagnosis.kind} ({place})"

    def _format_finding(self, diagnosis: Diagnosis) -> str:
        """Return the lines on a finding, with what is known of this run in the place of texts that fit any run."""
        text = "\n".join(format_new_diagnosis(diagnosis, self.history))
        for general, exact in self.wordings.items():
            text = text.replace(general, exact)
        return "\n".join(line.rstrip() for line in text.splitlines())
