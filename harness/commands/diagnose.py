"""python -m harness diagnose RUN_OR_LOG...: what may be said of a training from its curves, and what to try."""

import argparse
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import importers
from harness.config.errors import ConfigError
from harness.config.schema import ROOT, compose
from harness.core.events import Verdict
from harness.diagnosis import compare, diagnose
from harness.diagnosis.expectations import Expectation, parse, score
from harness.diagnosis.history import History
from harness.diagnosis.thresholds import Thresholds
from harness.importers import mlflow
from harness.record import metrics_file
from harness.run.initial_weights import find
from harness.run.reproduce import takeable

RUN_ID = r"[0-9a-f]{32}"
"""Of MLflow."""
WIDTH = 118
"""Columns, where the output is a file or a pipe."""
COUNTED = ("train/loss", "val/loss", "train/lr", "train/grad_norm")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness diagnose", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_OR_LOG", help="a run's folder or name, an MLflow run id, a "
                        "trainer_state.json, TensorBoard events, a CSV, a JSONL or a text log")  # fmt: skip
    parser.add_argument("--thresholds", default="default", metavar="NAME", help="one of conf/thresholds")
    parser.add_argument("--expect", action="append", default=[], metavar="FORECAST",
                        help="held against each, such as 'step 1500: val/loss < 6.65'")  # fmt: skip
    parser.add_argument("--uri", help="another MLflow store than mlruns/mlflow.db of the project")
    args = parser.parse_intermixed_args(arguments)
    limits = limits_of(args.thresholds)
    forecasts = [_forecast(text) for text in args.expect]
    histories = [history_of(run, args.uri) for run in args.runs]
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    for run, history in zip(args.runs, histories, strict=True):
        show(console, history, _takeable(run, diagnose(history, limits)), forecasts)
    if len(histories) > 1:
        _tell(console, "compared", compare(histories, limits), "these runs may be compared")
    return 0


def limits_of(preset: str) -> Thresholds:
    """The thresholds of conf/thresholds/PRESET.yaml."""
    return Thresholds(**compose([f"thresholds={preset}"]).thresholds)


def history_of(run: str, uri: str | None = None) -> History:
    """The run or log that `run` names; ConfigError where there is none, or none that can be read."""
    try:
        path = _path(run)
        history = importers.read(path) if path else mlflow.read(run, uri) if re.fullmatch(RUN_ID, run) else None
    except (ValueError, OSError) as error:
        raise ConfigError(f"RUN_OR_LOG: {error}") from error
    if history is None:
        raise ConfigError(
            f"RUN_OR_LOG: {run!r} is no file, no folder, no run in {ROOT / 'outputs'} and no run of MLflow"
        )
    return history


def show(console: Console, history: History, verdicts: Sequence[Verdict], forecasts: Sequence[Expectation]) -> None:
    """What was read, what is to be said of it, and what came of the forecasts, its own and those given."""
    console.print(Text(history.facts.name, style="bold"), Text("\n".join(_header(history))), sep="\n", highlight=False)
    _tell(console, "verdicts", verdicts, "nothing in these curves asks for a change")
    judged = [one.judge(history) for one in (*map(parse, history.facts.expect), *forecasts)]
    if judged:
        console.print(*map(str, judged), score(judged), sep="\n", markup=False, highlight=False)
    console.print()


def _path(run: str) -> Path | None:
    try:
        return find(run, ROOT / "outputs", "RUN_OR_LOG")
    except ConfigError:
        return None


def _takeable(run: str, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    """With no override that a run of ours would refuse; those for a log of others are as the default has them."""
    path = _path(run)
    folder = path if path is None or path.is_dir() else path.parent
    is_ours = folder and (folder / metrics_file.NAME).is_file() and (folder / "config.yaml").is_file()
    return takeable(folder, verdicts) if is_ours else verdicts


def _header(history: History) -> Iterator[str]:
    facts = history.facts
    yield facts.source
    counts = [f"{len(history[name])} of {name}" for name in COUNTED if len(history[name])]
    length = f"step {history.last_step}" + (f" of {facts.total_steps}" if facts.total_steps else "")
    yield " · ".join(filter(None, (facts.status, length, f"points: {', '.join(counts)}")))
    losses = history["val/loss"]
    finite = [i for i, value in enumerate(losses.values) if math.isfinite(value)]
    if finite:
        best = min(finite, key=losses.values.__getitem__)
        unit = f" {facts.unit}" if facts.unit else ""
        yield f"best validation loss {losses.values[best]:.4g}{unit} at step {losses.steps[best]}"


def _tell(console: Console, title: str, verdicts: Iterable[Verdict], otherwise: str) -> None:
    table = Table(title=None, header_style="bold", show_lines=True)
    for column, ratio in ((title, 3), ("at step", 1), ("confidence", 1), ("reason", 8), ("try", 6)):
        table.add_column(column, ratio=ratio, overflow="fold")
    for verdict in verdicts:
        tries = Text("\n".join(verdict.overrides))
        table.add_row(verdict.kind, str(verdict.step), f"{verdict.confidence:.0%}", Text(verdict.reason), tries)
    console.print(table if table.row_count else otherwise, highlight=False)


def _forecast(text: str) -> Expectation:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"--expect: {error}") from error
