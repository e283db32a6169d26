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
from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.core.events import Diagnosis
from harness.core.paths import project_dir
from harness.diagnosis import check_comparability, diagnose
from harness.diagnosis.expectations import Expectation, parse_expectation, summarize_expectations
from harness.diagnosis.history import History
from harness.diagnosis.thresholds import Thresholds
from harness.importers import mlflow
from harness.record import metrics_file
from harness.record.run_lookup import find_run
from harness.run.reproduce import keep_accepted_overrides

RUN_ID = r"[0-9a-f]{32}"
"""Of MLflow."""
WIDTH = 118
"""Columns, where the output is a file or a pipe."""
COUNTED_METRICS = ("train/loss", "val/loss", "train/lr", "train/grad_norm")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness diagnose", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_OR_LOG", help="a run's folder or name, an MLflow run id, a "
                        "trainer_state.json, TensorBoard events, a CSV, a JSONL or a text log")  # fmt: skip
    parser.add_argument("--thresholds", default="default", metavar="NAME", help="one of conf/thresholds")
    parser.add_argument("--expect", action="append", default=[], metavar="FORECAST",
                        help="held against each, such as 'step 1500: val/loss < 6.65'")  # fmt: skip
    parser.add_argument("--uri", help="another MLflow store than mlruns/mlflow.db of the project")
    args = parser.parse_intermixed_args(arguments)
    limits = load_thresholds(args.thresholds)
    forecasts = [_parse_expect_option(text) for text in args.expect]
    histories = [load_history(run, args.uri) for run in args.runs]
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    for run, history in zip(args.runs, histories, strict=True):
        print_diagnosis(console, history, _drop_refused_overrides(run, diagnose(history, limits)), forecasts)
    if len(histories) > 1:
        _print_table(console, "compared", check_comparability(histories, limits), "these runs may be compared")
    return 0


def load_thresholds(preset: str) -> Thresholds:
    """The thresholds of conf/thresholds/PRESET.yaml."""
    return Thresholds(**compose_config([f"thresholds={preset}"]).thresholds)


def load_history(run: str, uri: str | None = None) -> History:
    """The run or log that `run` names; ConfigError where there is none, or none that can be read."""
    try:
        path = _find_run_path(run)
        history = (
            importers.read_history(path)
            if path
            else mlflow.read_mlflow_run(run, uri)
            if re.fullmatch(RUN_ID, run)
            else None
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"RUN_OR_LOG: {error}") from error
    if history is None:
        raise ConfigError(
            f"RUN_OR_LOG: {run!r} is no file, no folder, no run in {project_dir() / 'outputs'} and no run of MLflow"
        )
    return history


def print_diagnosis(
    console: Console, history: History, diagnoses: Sequence[Diagnosis], forecasts: Sequence[Expectation]
) -> None:
    """What was read, what is to be said of it, and what came of the forecasts, its own and those given."""
    console.print(
        Text(history.facts.name, style="bold"), Text("\n".join(_describe_history(history))), sep="\n", highlight=False
    )
    _print_table(console, "diagnoses", diagnoses, "nothing in these curves asks for a change")
    judged = [one.evaluate(history) for one in (*map(parse_expectation, history.facts.expect), *forecasts)]
    if judged:
        console.print(*map(str, judged), summarize_expectations(judged), sep="\n", markup=False, highlight=False)
    console.print()


def _find_run_path(run: str) -> Path | None:
    try:
        return find_run(run, project_dir() / "outputs", "RUN_OR_LOG")
    except ConfigError:
        return None


def _drop_refused_overrides(run: str, diagnoses: Sequence[Diagnosis]) -> Sequence[Diagnosis]:
    """With no override that a run of ours would refuse; those for a log of others are as the default has them."""
    path = _find_run_path(run)
    folder = path if path is None or path.is_dir() else path.parent
    is_ours = folder and (folder / metrics_file.METRICS_FILE).is_file() and (folder / "config.yaml").is_file()
    return keep_accepted_overrides(folder, diagnoses) if is_ours else diagnoses


def _describe_history(history: History) -> Iterator[str]:
    facts = history.facts
    yield facts.source
    counts = [f"{len(history[name])} of {name}" for name in COUNTED_METRICS if len(history[name])]
    length = f"step {history.last_step}" + (f" of {facts.total_steps}" if facts.total_steps else "")
    yield " · ".join(filter(None, (facts.status, length, f"points: {', '.join(counts)}")))
    losses = history["val/loss"]
    finite = [i for i, value in enumerate(losses.values) if math.isfinite(value)]
    if finite:
        best = min(finite, key=losses.values.__getitem__)
        unit = f" {facts.unit}" if facts.unit else ""
        yield f"best validation loss {losses.values[best]:.4g}{unit} at step {losses.steps[best]}"


def _print_table(console: Console, title: str, diagnoses: Iterable[Diagnosis], otherwise: str) -> None:
    table = Table(title=None, header_style="bold", show_lines=True)
    for column, ratio in ((title, 3), ("at step", 1), ("confidence", 1), ("reason", 8), ("try", 6)):
        table.add_column(column, ratio=ratio, overflow="fold")
    for diagnosis in diagnoses:
        tries = Text("\n".join(diagnosis.overrides))
        table.add_row(diagnosis.kind, str(diagnosis.step), f"{diagnosis.confidence:.0%}", Text(diagnosis.reason), tries)
    console.print(table if table.row_count else otherwise, highlight=False)


def _parse_expect_option(text: str) -> Expectation:
    try:
        return parse_expectation(text)
    except ValueError as error:
        raise ConfigError(f"--expect: {error}") from error
