"""python -m harness prescribe RUN: the sweep, or the longer run, that follows from what is wrong with a run."""

import argparse
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness.commands.diagnose import limits_of
from harness.config.errors import ConfigError
from harness.config.schema import ROOT
from harness.diagnosis import diagnose
from harness.diagnosis.history import History
from harness.diagnosis.prescription import Prescription, prescribe
from harness.importers import native
from harness.observers.console import duration
from harness.record import metrics_file
from harness.run.initial_weights import find
from harness.run.reproduce import retyped, study_after, takeable
from harness.sweep.request import ask


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness prescribe", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run's folder or name, or its MLflow run id")
    parser.add_argument("--thresholds", default="default", metavar="NAME", help="one of conf/thresholds")
    args = parser.parse_args(arguments)
    folder = find(args.run, ROOT / "outputs", "RUN")
    if not (folder / metrics_file.NAME).is_file() or not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"RUN: {folder} is no run of ours: it holds no {metrics_file.NAME} and config.yaml; try diagnose"
        )
    limits = limits_of(args.thresholds)
    try:
        history, start = native.read(folder / metrics_file.NAME), native.start_of(folder / metrics_file.NAME)
    except ValueError as error:
        raise ConfigError(f"RUN: {error}") from error
    verdicts = takeable(folder, diagnose(history, limits))
    prescription, typed = prescribe(history, verdicts, start["params"]), retyped(folder)
    lines = told(prescription, typed, history.facts.name, cost(folder / metrics_file.NAME, history))
    print(*_found(history, verdicts), *lines, sep="\n")
    return int(bool(prescription.refusal))


@dataclass(frozen=True)
class Cost:
    """What a run took: of `steps` and `evals` each so many seconds."""

    steps: int
    evals: int
    of_step: float
    of_eval: float

    @property
    def seconds(self) -> float:
        return self.steps * self.of_step + self.evals * self.of_eval


def cost(path: Path, history: History) -> Cost | None:
    """Of a whole run such as the one whose record this is, without what it went on from; None where it ended before it
    could be measured."""
    first = int(native.start_of(path)["params"].get("effective.first_step", 0))
    end = next((entry for entry, _ in metrics_file.read(path) if entry["kind"] == "end"), None)
    paces, evals = history["perf/steps_per_second"].values, len(history["val/loss"])
    if end is None or not len(paces) or not evals:
        return None
    steps, taken = history.facts.total_steps - first, end["step"] - first
    of_step = median(1 / paces)
    of_eval = max(0.0, end["seconds"] - of_step * taken) / evals
    return Cost(steps, round(evals * steps / taken), of_step, of_eval)


def told(prescription: Prescription, typed: Sequence[str], run: str, spent: Cost | None) -> Iterator[str]:
    """Why, what to type, and what it will cost."""
    if prescription.refusal:
        yield f"no sweep: {prescription.refusal}"
        yield f"first: {shlex.join(['python', '-m', 'harness', 'preflight', *typed])}"
        return
    parts = [*prescription.ranges, *prescription.settings]
    width = max((len(part.override) for part in parts), default=0)
    yield from (f"  {part.override:<{width}}  {part.why}" for part in parts)
    yield from prescription.notes
    settings = [part.override for part in prescription.settings]
    kept = [one for one in typed if one.partition("=")[0] not in {part.key for part in parts}]
    if not prescription.ranges:
        yield shlex.join(["python", "run.py", *kept, *settings])
        yield f"one run instead of a sweep{_took(spent, longer=bool(settings))}"
        return
    wanted = [*kept, *settings, "sweeps=none", *(part.override for part in prescription.ranges)]
    wanted += [f"sweep.n_trials={prescription.n_trials}", f"sweep.study={study_after(run)}"]
    asked = ask(wanted)
    yield shlex.join(["python", "run.py", "-m", *wanted])
    yield _forecast(prescription.n_trials, asked.n_jobs, spent, longer=bool(settings))


def _found(history: History, verdicts: Sequence) -> Iterator[str]:
    yield history.facts.name
    yield from (f"  {verdict.kind} ({verdict.confidence:.0%}): {verdict.reason}" for verdict in verdicts)
    if not verdicts:
        yield "  no verdict asks for a change; a sweep of the LR shows whether there is more to have"


def _took(spent: Cost | None, longer: bool) -> str:
    if spent is None:
        return ""
    return f"; the last took {duration(spent.seconds)}{', this one twice that' if longer else ''}"


def _forecast(n_trials: int, n_jobs: int, spent: Cost | None, longer: bool) -> str:
    workers = f"{n_trials} trials by {n_jobs} worker{'s' * (n_jobs > 1)}"
    if spent is None:
        return f"{workers}; what one costs is told by sweep.dry_run=true"
    seconds = spent.seconds * (2 if longer else 1)
    return (
        f"{workers}, each as this run: {spent.steps} steps of {spent.of_step:.3g} s and {spent.evals} evaluations of "
        f"{spent.of_eval:.3g} s{', twice' if longer else ''}; in all at most "
        f"{duration(math.ceil(n_trials / n_jobs) * seconds)}, less what is pruned"
    )
