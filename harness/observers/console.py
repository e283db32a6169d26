"""Progress of a run in the terminal; plain lines if the output is a file or a pipe."""

import math
import shlex
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from rich.console import Console as Terminal
from rich.console import Group
from rich.live import Live
from rich.text import Text

from harness.core.credentials import hide_credentials
from harness.core.effective_settings import EffectiveSettings
from harness.core.events import Diagnosis, EvalEnd, Event, FinalDiagnosis, Observer, RunEnd, RunStart, StepEnd
from harness.core.formatting import format_duration, format_number
from harness.record.metric_rows import MetricAggregator, describe_event
from harness.tracking.store_uri import resolve_store_uri

LIVE_INTERVAL_S, PLAIN_INTERVAL_S = 0.25, 10.0
WIDTH, BAR_WIDTH = 118, 24  # characters
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
                self._print_lines(format_evaluation(event))
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
                    self._print_lines(text)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _start_display(self, start: RunStart) -> None:
        self._start, self._steps = start, 0
        self._shown_at = time.monotonic()
        self._print_lines(*format_header(start))
        terminal = Terminal()
        if terminal.is_terminal:
            self._live = Live(console=terminal, auto_refresh=False, transient=True)
            self._live.start()

    def _show_progress(self, event: StepEnd) -> None:
        now = time.monotonic()
        if self._steps == 0:
            self._first_at = now
        self._steps += 1
        if now - self._shown_at < (PLAIN_INTERVAL_S if self._live is None else LIVE_INTERVAL_S):
            return
        self._shown_at = now
        where = f"step {event.step}/{self._start.total_steps}"
        tokens = self._latest.get("perf/tokens_per_second")
        pace = [f"{tokens:,.0f} tokens/s"] if tokens else []
        if self._steps > 1:  # the first step includes start-up costs
            steps_left = self._start.total_steps - event.step
            pace.append(f"{format_duration((now - self._first_at) / (self._steps - 1) * steps_left)} left")
        if self._live is None:
            self._print_lines(" · ".join([where, *format_metrics(self._latest), *pace]))
        else:
            filled = BAR_WIDTH * event.step // self._start.total_steps
            bar = Text.assemble(("━" * filled, "green"), ("━" * (BAR_WIDTH - filled), "bright_black"), "  ")
            bar.append(" · ".join([where, *pace]))
            self._live.update(Group(bar, Text(" · ".join(format_metrics(self._latest)))), refresh=True)

    def _print_lines(self, *lines: str) -> None:
        print(*lines, sep="\n", flush=True)  # rich puts this above the live panel


def format_header(start: RunStart) -> Iterator[str]:
    """Yield the name, the data and the most important settings in effect; config.yaml and MLflow have all."""
    yield start.name
    yield from _wrap_paragraph("data", [start.dataset.get(name, "") for name in ("name", "digest")])
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
    loss = event.metrics["loss"]
    error = f" ± {loss.standard_error:.2g}" if loss.standard_error is not None else ""
    best = "best" if event.is_best else f"best {format_number(event.best_val_loss)} at step {event.best_step}"
    parts = [f"step {event.step}", f"val loss {format_number(loss.value)}{error} {loss.unit} ({best})"]
    others = {name: metric.value for name, metric in event.metrics.items() if name != "loss"}
    if others.get("coverage") == 1:
        del others["coverage"]  # worth showing only if something was left out
    return " · ".join([*parts, *(f"{name.replace('_', ' ')} {format_number(value)}" for name, value in others.items())])


def format_run_end(end: RunEnd, start: RunStart) -> Iterator[str]:
    """Yield the status and best loss, the folder, and the command that shows the run."""
    reason = f" ({end.reason})" if end.reason else ""
    best = f" · best val loss {format_number(end.best_val_loss)} at step {end.best_step}"
    found = best if math.isfinite(end.best_val_loss) else ""
    yield f"{end.status}{reason} after {format_duration(end.seconds)} · step {end.step}{found}"
    yield f"folder: {start.folder}"
    yield f"compare with other runs: {_viewer_command(start.params.get('tracking.uri', 'None'))}"


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """Return the diagnosis and the overrides to try."""
    return f"step {diagnosis.step} · {diagnosis.kind}: {diagnosis.reason}{_format_suggestion(diagnosis)}"


def format_conclusion(final: FinalDiagnosis | None) -> Iterator[str]:
    """Yield a table of the final diagnoses and a summary of the expectations; nothing if nothing was diagnosed."""
    if final is None:
        return
    if final.diagnoses:
        yield f"diagnosis   {len(final.diagnoses)} found, root causes first"
    for diagnosis in final.diagnoses:
        text = f"{diagnosis.kind:<22}{diagnosis.confidence:>5.0%}  {diagnosis.reason}{_format_suggestion(diagnosis)}"
        yield from textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent=" " * 31, break_long_words=False)
    for number, line in enumerate(final.assessment):
        yield from _wrap_paragraph("" if number or final.diagnoses else "diagnosis", [line])
    if final.expectations:
        yield f"expectations {final.expectations}"


def _format_suggestion(diagnosis: Diagnosis) -> str:
    return f"; try {' '.join(diagnosis.overrides)}" if diagnosis.overrides else ""


def _viewer_command(uri: str) -> str:
    if uri == "None":
        return "plateau ui"
    if uri.startswith(("http", "databricks")):
        return f"open {hide_credentials(uri)}"
    with suppress(ValueError):  # not a store; the run was not tracked
        uri = resolve_store_uri(uri)
    return f"plateau ui --uri {shlex.quote(hide_credentials(uri))}"


def _wrap_paragraph(title: str, parts: Iterable[str]) -> Iterator[str]:
    text = " · ".join(filter(None, parts))
    if text:
        yield from textwrap.wrap(f"{title:12}{text}", WIDTH, subsequent_indent=" " * 12, break_long_words=False)
