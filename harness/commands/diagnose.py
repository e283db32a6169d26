"""plateau diagnose RUN_OR_LOG...: find out from its curves what is wrong with a training, and what to try."""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from harness import importers
from harness.commands.arguments import RUN_HELP, CommandParser, add_output_dir, add_threshold_option, parse_option
from harness.core.errors import ConfigError, UntrustedError
from harness.core.events import Diagnosis
from harness.core.terminal import fit_record, paragraph_width
from harness.diagnosis import diagnose
from harness.diagnosis.assessment import Assessment, assess
from harness.diagnosis.comparability import compare_runs, name_distinctly
from harness.diagnosis.expectations import Expectation, parse_expectation, summarize_expectations
from harness.diagnosis.history import History
from harness.diagnosis.plateau_window import drop_non_finite
from harness.diagnosis.render import format_diagnoses
from harness.diagnosis.thresholds import parse_thresholds
from harness.record import metrics_file
from harness.record.run_lookup import RunNotFoundError, find_run

MLFLOW_RUN_ID = r"[0-9a-f]{32}"
COUNTED_METRICS = ("train/loss", "val/loss", "train/lr", "train/grad_norm")


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau diagnose", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_OR_LOG", help=f"{RUN_HELP}, a "
                        "trainer_state.json, TensorBoard events, a CSV, a JSONL or a text log")  # fmt: skip
    add_threshold_option(parser)
    parser.add_argument("--expect", action="append", default=[], metavar="EXPECTATION",
                        help="checked against each run, such as 'step 1500: val/loss < 6.65'")  # fmt: skip
    add_output_dir(parser)
    parser.add_argument("--uri", help="MLflow tracking store, if not mlflow.db of the project")
    args = parser.parse_intermixed_args(arguments)
    thresholds = parse_option("--threshold", parse_thresholds, args.threshold)
    expectations = [parse_option("--expect", parse_expectation, text) for text in args.expect]
    paths = [_find_run_path(run, args.output_dir) for run in args.runs]
    histories = [load_history(run, path, args.uri) for run, path in zip(args.runs, paths, strict=True)]
    console = Console(soft_wrap=True, highlight=False)
    for path, history in zip(paths, histories, strict=True):
        diagnoses = diagnose(history, thresholds)
        assessment = assess(history, thresholds, diagnoses)
        print_diagnosis(console, history, _drop_refused_suggestions(path, diagnoses), assessment, expectations)
    if len(histories) > 1:
        comparison = compare_runs(histories, thresholds)
        lines = [str(comparison), *(f"  {reason}" for reason in comparison.reasons)]
        if comparison.verdict != "not comparable":
            lines += _rank_runs(histories)
        console.print(*map(fit_record, lines), sep="\n", markup=False)
    return 0


def load_history(run: str, path: Path | None, uri: str | None = None) -> History:
    """Load the run or log at `path`, or the MLflow run with the id `run`."""
    try:
        if path:
            return importers.read_history(path)
        from harness.importers.mlflow import read_mlflow_run

        if (history := read_mlflow_run(run, uri)) is not None:
            return history
    except (ValueError, OSError) as error:
        raise ConfigError(f"RUN_OR_LOG: {error}") from error
    raise ConfigError(f"RUN_OR_LOG: {run!r} is not the id of a run in this MLflow store; name another with --uri")


def print_diagnosis(
    console: Console,
    history: History,
    diagnoses: Sequence[Diagnosis],
    assessment: Assessment,
    expectations: Sequence[Expectation],
) -> None:
    """Print what was read, its diagnoses, the slopes of its losses, and the results of all expectations."""
    header = Text("\n".join(map(fit_record, _describe_history(history))))
    console.print(Text(history.facts.name, style="bold"), header, sep="\n")
    if diagnoses:
        _print_diagnoses(console, diagnoses)
    judged = assessment.lines(has_diagnoses=bool(diagnoses))
    console.print(*map(fit_record, judged), sep="\n", markup=False)
    results = [one.evaluate(history) for one in (*map(parse_expectation, history.facts.expect), *expectations)]
    if results:
        lines = [fit_record(str(line)) for line in (*results, summarize_expectations(results))]
        console.print(*lines, sep="\n", markup=False)
    console.print()


def _find_run_path(run: str, output_dir: Path) -> Path | None:
    """Return the path of a log or of a run's folder, None for an MLflow run id that no folder has recorded."""
    try:
        return find_run(run, output_dir, "RUN_OR_LOG")
    except RunNotFoundError:
        if re.fullmatch(MLFLOW_RUN_ID, run):
            return None
        raise


def _drop_refused_suggestions(path: Path | None, diagnoses: Sequence[Diagnosis]) -> Sequence[Diagnosis]:
    """Drop suggestions that our run at `path` would refuse; those for other logs assume the default configuration."""
    folder = path if path is None or path.is_dir() else path.parent
    is_ours = folder and (folder / metrics_file.METRICS_FILE).is_file() and (folder / "config.yaml").is_file()
    if not folder or not is_ours or not any(diagnosis.suggestions for diagnosis in diagnoses):
        return diagnoses
    try:
        from harness.run.reproduce import keep_accepted_suggestions  # loads Hydra, which logs do without
    except ModuleNotFoundError:
        print("note: suggestions are not checked against the run's configuration, which needs Hydra", file=sys.stderr)
        return diagnoses
    try:
        return keep_accepted_suggestions(folder, diagnoses)
    except UntrustedError as error:  # the curves of somebody else's run can be judged without their code
        print(f"note: suggestions are not checked against the run's configuration: {error}", file=sys.stderr)
        return diagnoses


def _describe_history(history: History) -> Iterator[str]:
    facts = history.facts
    yield facts.source
    counts = [f"{len(history[name])} of {name}" for name in COUNTED_METRICS if len(history[name])]
    length = f"step {history.last_step}" + (f" of {facts.total_steps}" if facts.total_steps else "")
    yield " · ".join(filter(None, (facts.status, length, f"points: {', '.join(counts)}")))
    losses = drop_non_finite(history["val/loss"])
    if len(losses):
        best = int(np.argmin(losses.values))
        unit = f" {facts.unit}" if facts.unit else ""
        yield f"best validation loss {losses.values[best]:.4g}{unit} at step {losses.steps[best]}"


def _rank_runs(histories: Sequence[History]) -> Iterator[str]:
    """Yield a line with the best validation loss of each run, the lowest first, if at least two have one."""
    found = []
    for name, history in zip(name_distinctly(histories), histories, strict=True):
        losses = drop_non_finite(history["val/loss"])
        if len(losses):
            best = int(np.argmin(losses.values))
            found.append((float(losses.values[best]), f"{name} {losses.values[best]:.4g} at step {losses.steps[best]}"))
    if len(found) > 1:
        found.sort(key=lambda one: one[0])
        yield "best validation losses, lowest first: " + " · ".join(text for _, text in found)


def _print_diagnoses(console: Console, diagnoses: Sequence[Diagnosis]) -> None:
    console.print(f"diagnosis: {len(diagnoses)} found, root causes first")
    for diagnosis in diagnoses:
        head, *lines = format_diagnoses([diagnosis], paragraph_width())
        console.print(Text(head, style="bold"), *map(Text, lines), sep="\n")
