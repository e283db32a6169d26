"""Progress of a run in the terminal; plain lines if the output is a file or a pipe."""

import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from rich.console import Console as Terminal
from rich.console import Group
from rich.live import Live
from rich.text import Text

from harness.core.credentials import hide_credentials
from harness.core.effective_settings import EffectiveSettings
from harness.core.events import (
    Diagnosis,
    EvalEnd,
    Event,
    FinalDiagnosis,
    FinalTest,
    Observer,
    RunEnd,
    RunStart,
    StepEnd,
)
from harness.core.formatting import format_duration, format_number
from harness.core.task import Metric
from harness.core.terminal import find_width, fit_record, format_labeled, paragraph_width, wrap_parts, wrap_text
from harness.diagnosis.render import format_diagnoses, format_suggestions
from harness.record.metric_rows import MetricAggregator, describe_event
from harness.record.past_record import read_past_rows
from harness.tracking.store_uri import resolve_store_uri

LIVE_INTERVAL_S, PLAIN_INTERVAL_S = 0.25, 10.0
FIRST_INTERVAL_S = 2.0  # until the first line that says how long the run takes
BAR_WIDTH = 24  # characters
# Lines at the start of a run, with the settings in effect that each shows.
HEADER_SETTINGS = {
    "model": ("parameters", "trainable_parameters"),
    "run": ("total_steps", "evals", "batch_size", "accum_steps"),
    "update": ("optimizer", "peak_lr", "weight_decay", "schedule", "warmup_steps", "grad_clip"),
    "on": ("device", "devices", "threads", "autocast"),
}
DISPLAYED_METRICS = {
    "loss": "train/loss",
    "val": "val/loss",
    "best": "val/best_loss",
    "lr": "train/lr",
    "grad norm": "train/grad_norm",
}


class ConsolePrinter(Observer):
    """Print a header, evaluations and messages above one live line of progress, then the diagnosis and the result."""

    def __init__(self) -> None:
        self._aggregate = MetricAggregator()
        self._latest: dict[str, float] = {}
        self._live: Live | None = None
        self._final: FinalDiagnosis | None = None

    def __call__(self, event: Event) -> None:
        with suppress(OSError):  # the reader of a pipe has gone, as in `python run.py | head`
            self._handle_event(event)

    def _handle_event(self, event: Event) -> None:
        row = self._aggregate(event)
        if row is not None:
            self._latest |= row.metrics
        match event:
            case StepEnd():
                self._show_progress(event)
            case EvalEnd():
                self._evals += 1
                self._eval_seconds += event.seconds
                self._print_lines(fit_record(format_evaluation(event)))
            case FinalTest():
                self._print_lines(fit_record(format_final_test(event)))
            case RunStart():
                self._start_display(event)
            case Diagnosis():
                self._print_lines(format_diagnosis(event))
            case FinalDiagnosis():
                self._final = event
            case RunEnd():
                self.close()
                self._print_lines(*format_conclusion(self._final))
                self._print_lines(*format_run_end(event, self._start))
            case _:
                text = describe_event(event)
                if text:
                    self._print_lines(fit_record(text))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _start_display(self, start: RunStart) -> None:
        self._start, self._steps, self._evals, self._eval_seconds = start, 0, 0, 0.0
        self._shown_at, self._is_estimated = time.monotonic(), False
        self._print_lines(*format_header(start))
        for row in read_past_rows(start.past):
            self._latest |= row.metrics
        if start.past:
            self._print_lines(f"continued at step {start.past.step} of {start.total_steps}")
        terminal = Terminal()
        if terminal.is_terminal:
            self._live = Live(console=terminal, auto_refresh=False, transient=True)
            self._live.start()

    def _show_progress(self, event: StepEnd) -> None:
        now = time.monotonic()
        if self._steps == 0:  # the first step includes start-up costs
            self._first_at, self._first_eval_seconds, self._first_evals = now, self._eval_seconds, self._evals
        self._steps += 1
        interval = PLAIN_INTERVAL_S if self._is_estimated else min(FIRST_INTERVAL_S, PLAIN_INTERVAL_S)
        if now - self._shown_at < (interval if self._live is None else LIVE_INTERVAL_S):
            return
        self._shown_at = now
        where = f"step {event.step}/{self._start.total_steps}"
        tokens = self._latest.get("perf/tokens_per_second")
        pace = [f"{tokens:,.0f} tokens/s"] if tokens else []
        if self._steps > 1:
            pace.append(f"{format_duration(self._estimate_seconds_left(event, now))} left")
            self._is_estimated = True
        if self._live is None:
            self._print_lines(fit_record(" · ".join([where, *format_metrics(self._latest), *pace])))
        else:
            filled = BAR_WIDTH * event.step // self._start.total_steps
            bar = Text.assemble(("━" * filled, "green"), ("━" * (BAR_WIDTH - filled), "bright_black"), "  ")
            bar.append(" · ".join([where, *pace]))
            metrics = wrap_parts(format_metrics(self._latest), self._live.console.width)
            self._live.update(Group(bar, *map(Text, metrics)), refresh=True)

    def _estimate_seconds_left(self, event: StepEnd, now: float) -> float:
        """Return the time that the remaining steps and evaluations take, from those since the first step."""
        step_seconds = now - self._first_at - (self._eval_seconds - self._first_eval_seconds)
        left = step_seconds / (self._steps - 1) * (self._start.total_steps - event.step)
        if self._evals:
            evals_left = self._start.effective.evals - (self._evals - self._first_evals)
            left += max(0, evals_left) * self._eval_seconds / self._evals
        return left

    def _print_lines(self, *lines: str) -> None:
        text = "\n".join(lines)
        if self._live is None:
            print(text, flush=True)
        else:  # above the panel, where rich would break long words
            self._live.console.print(Text(text), soft_wrap=True)


def format_header(start: RunStart) -> Iterator[str]:
    """Yield the name, the data and the most important settings in effect; config.yaml and MLflow have all."""
    yield start.name
    about = [start.dataset.get(name, "") for name in ("name", "digest", "shape")]
    yield from _wrap_paragraph("data", [part for text in about for part in text.split(" · ")])
    for title, names in HEADER_SETTINGS.items():
        yield from _wrap_paragraph(title, [part for name in names for part in _format_setting(start.effective, name)])
    constants = [f"{name.replace('_', ' ')} {format_number(value)}" for name, value in start.constants.items()]
    yield from _wrap_paragraph("baselines", constants)


def _format_setting(effective: EffectiveSettings, name: str) -> list[str]:
    """Return the setting by name, or by parameter group where the groups differ."""
    label = name.replace("_", " ")
    if hasattr(effective, name):
        value = getattr(effective, name)
        return [f"{label} {value:,}" if isinstance(value, int) else f"{label} {value}"] if value != "" else []
    by_group = {group: str(numbers[name]) for group, numbers in effective.param_groups.items() if name in numbers}
    if len(set(by_group.values())) == 1:
        return [f"{label} {next(iter(by_group.values()))}"]
    return [f"{label} of {group} {value}" for group, value in by_group.items()]


def format_metrics(latest: Mapping[str, float]) -> Iterator[str]:
    """Yield the latest values of the metrics measured so far."""
    for label, name in DISPLAYED_METRICS.items():
        if name in latest:
            yield f"{label} {format_number(latest[name])}"
    if latest.get("train/clip_fraction"):
        yield f"clipped {latest['train/clip_fraction']:.0%}"


def format_evaluation(event: EvalEnd) -> str:
    """Return the loss with its standard error and unit, the best loss, and the other metrics."""
    best = "best" if event.is_best else f"best {format_number(event.best_val_loss)} at step {event.best_step}"
    best = "probe" if event.is_probe else best
    loss, *others = _format_measured(event.metrics)
    return " · ".join([f"step {event.step}", f"val loss {loss} ({best})", *others])


def format_final_test(event: FinalTest) -> str:
    """Return the loss on the test split with its standard error and unit, and the other metrics."""
    loss, *others = _format_measured(event.metrics)
    return " · ".join([f"test loss {loss} (weights of step {event.best_step})", *others])


def _format_measured(metrics: Mapping[str, Metric]) -> Iterator[str]:
    """Yield the loss, with its standard error and unit, and each other metric with its name."""
    loss = metrics["loss"]
    error = f" ± {loss.standard_error:.2g}" if loss.standard_error is not None else ""
    yield f"{format_number(loss.value)}{error} {loss.unit}"
    for name, metric in metrics.items():
        if name != "loss" and (name, metric.value) != ("coverage", 1):  # worth showing if something was left out
            yield f"{name.replace('_', ' ')} {format_number(metric.value)}"


def format_run_end(end: RunEnd, start: RunStart) -> Iterator[str]:
    """Yield the status, the best loss and that on the test split, the folder, and the command that shows the run."""
    reason = f" ({end.reason})" if end.reason else ""
    best = f" · best val loss {format_number(end.best_val_loss)} at step {end.best_step}"
    found = best if math.isfinite(end.best_val_loss) else ""
    found += "" if end.test_loss is None else f" · test loss {format_number(end.test_loss)}"
    yield fit_record(f"{end.status}{reason} after {format_duration(end.seconds)} · step {end.step}{found}")
    yield from format_labeled("folder", str(start.folder))
    yield from format_labeled("compare with other runs", _viewer_command(start.params.get("tracking.uri", "None")))


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """Return the diagnosis, and the settings to try in lines of their own."""
    text = fit_record(f"step {diagnosis.step} · {diagnosis.kind}: {diagnosis.reason}")
    return "\n".join([text, *format_suggestions(diagnosis, "    ")])


def format_conclusion(final: FinalDiagnosis | None) -> Iterator[str]:
    """Yield a table of the final diagnoses and a summary of the expectations; nothing if nothing was diagnosed."""
    if final is None:
        return
    if final.diagnoses:
        yield f"diagnosis   {len(final.diagnoses)} found, root causes first"
    yield from format_diagnoses(final.diagnoses, paragraph_width())
    for number, line in enumerate(final.assessment):
        title = "" if number or final.diagnoses else "diagnosis"
        width = find_width() or sys.maxsize  # a line of a log stays one line in a file
        yield from wrap_text(line, width, f"{title:12}", " " * 12)
    if final.expectations:
        yield fit_record(final.expectations)


def _viewer_command(uri: str) -> str:
    if uri == "None":
        return "plateau ui"
    if uri.startswith(("http", "databricks")):
        return f"open {hide_credentials(uri)}"
    with suppress(ValueError):  # not a store; the run was not tracked
        uri = resolve_store_uri(uri)
    return f"plateau ui --uri {shlex.quote(hide_credentials(uri))}"


def _wrap_paragraph(title: str, parts: Iterable[str]) -> Iterator[str]:
    if shown := [*filter(None, parts)]:
        yield from wrap_parts(shown, paragraph_width(), f"{title:12}", " " * 12)
