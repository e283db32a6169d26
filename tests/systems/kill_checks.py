"""Checks of the kill tests once a run or a sweep has completed."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from harness.config.compose import compose_config
from harness.core.checkpoint_names import checkpoint_name
from harness.record.metrics_file import METRICS_FILE, read_entries
from harness.run import runner
from harness.sweep.study.trial_attrs import RESULT, RETRIES, RETRY_OF
from harness.sweep.study.trial_queue import MAX_WORKER_DEATHS, WORKER_DIED
from harness.tracking.mlflow_client import connect_to_store
from harness.tracking.run_uploader import upload_run
from harness.tracking.sweep_uploader import SweepUploader
from harness.tracking.upload_cursor import UploadCursor
from harness.training.checkpoint import WEIGHTS_FILE, load_weights
from tests.systems.kill_tools import (
    UPLOAD_SECONDS,
    Tally,
    list_temporary_files,
    wait_for_marked_end,
)
from tests.systems.killed_runs import TOTAL_STEPS, RunCase
from tests.systems.killed_sweeps import SMALL_TRIAL, SweepCase
from tests.tracking.stores import recorded_points


def read_deterministic(run: Path) -> dict[tuple[int, str], list[float]]:
    """Return every recorded value that does not depend on the clock, by step and metric."""
    values: dict[tuple[int, str], list[float]] = {}
    for entry, _ in read_entries(run / METRICS_FILE):
        for name, value in entry.get("metrics", {}).items():
            if not name.startswith("perf/"):
                values.setdefault((entry["step"], name), []).append(value)
    return values


def read_start_entry(run: Path) -> dict[str, Any] | None:
    """Return the start entry of a run's record, None if it died before that."""
    path = run / METRICS_FILE
    return next((entry for entry, _ in read_entries(path)), None) if path.exists() else None


def check_run(case: RunCase, reference: Path, tally: Tally) -> None:
    """Compare a completed run with the reference run, and look for what the kills have left."""
    wait_for_marked_end(case.marker, UPLOAD_SECONDS, tally)
    name = case.folder.name
    runs = [run for run in case.list_runs() if read_start_entry(run)]
    tally.notes["folders without a record"] += len(case.list_runs()) - len(runs)
    expected = read_deterministic(reference)
    for run in runs:
        for key, values in read_deterministic(run).items():
            if len(values) > 1:
                tally.add_problem("duplicated", f"{name}/{run.name}: {key} {len(values)} times")
            if values[0] != expected[key][0]:
                tally.add_problem("different", f"{name}/{run.name}: {key}: {values[0]}, not {expected[key][0]}")
    last = next(filter(is_completed, reversed(runs)), runs[-1])
    check_chain(last, runs, expected, tally)
    check_weights(last, reference, tally)
    check_store(case, runs, tally)
    resumed = {start["tags"].get("resumed.run") for start in map(read_start_entry, runs) if start}
    for path in list_temporary_files(case.folder / "outputs", case.cache):
        if path.is_relative_to(case.cache) or path.relative_to(case.folder / "outputs").parts[0] in resumed:
            tally.add_problem("leftover files", str(path))
        else:
            tally.notes["drafts in killed runs that nobody resumed"] += 1


def check_run_status(run: Path | None, place: str, exit_status: int, tally: Tally) -> None:
    """Check that the record of a signaled run, if it had begun, ends with the status that the process returned."""
    if run is None or not read_start_entry(run):
        return
    *_, (last, _) = read_entries(run / METRICS_FILE)
    if last.get("status") not in (("interrupted", "completed") if exit_status else ("completed",)):
        tally.add_problem("other", f"{place}: the record ends with {last['kind']} {last.get('status', '')}")


def is_completed(run: Path) -> bool:
    """Return whether the record of a run says that it has completed."""
    path = run / METRICS_FILE
    entries = [entry for entry, _ in read_entries(path)] if path.exists() else []
    return bool(entries) and entries[-1].get("status") == "completed"


def check_chain(last: Path, runs: list[Path], expected: dict[tuple[int, str], list[float]], tally: Tally) -> None:
    """Check that the last run and those it resumed have recorded every step."""
    by_name = {run.name: run for run in runs}
    run: Path | None = last
    kept: dict[tuple[int, str], list[float]] = {}
    limit = TOTAL_STEPS
    while run is not None:
        start = read_start_entry(run)
        assert start is not None
        first = start["effective"]["first_step"]
        kept |= {key: values for key, values in read_deterministic(run).items() if first <= key[0] <= limit}
        limit, run = first, by_name.get(start["tags"].get("resumed.run", ""))
    lost = sorted({step for step, _ in set(expected) - set(kept)})
    if lost:
        tally.add_problem("lost", f"{last}: values of {len(lost)} steps from {lost[0]} to {lost[-1]}")


def check_weights(run: Path, reference: Path, tally: Tally) -> None:
    """Check that the last checkpoint holds the weights of the reference."""
    paths = [one / "checkpoints" / checkpoint_name(TOTAL_STEPS) / WEIGHTS_FILE for one in (run, reference)]
    tally.n_compared += 1
    last, other = (load_weights(path) if path.exists() else {} for path in paths)
    if last and last.keys() == other.keys() and all(torch.equal(last[name], other[name]) for name in last):
        tally.n_equal += 1
    else:
        tally.add_problem("different", f"{run}: the weights after the last step")


def check_store(case: RunCase, runs: list[Path], tally: Tally) -> None:
    """Check that MLflow has every run once, with one value per metric and step, after `plateau sync` if needed."""
    for run in runs:
        if not UploadCursor.load(run).is_complete:
            tally.notes["runs uploaded by sync"] += 1
            if not (run / "mlflow.json").exists():  # died before it noted its store
                UploadCursor(case.uri, "default").save(run)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MLFLOW_TRACKING_URI", case.uri)
                upload_run(run, lambda text: None)
    check_uploads(connect_to_store(case.uri), [], runs, case.folder.name, tally)


def check_uploads(client: MlflowClient, others: list[str], folders: list[Path], place: str, tally: Tally) -> None:
    """Check that MLflow has the runs in `folders` and `others` once, and exactly the recorded values."""
    runs = client.search_runs([client.get_experiment_by_name("default").experiment_id])
    stored = Counter(run.info.run_name for run in runs)
    if stored != Counter([*others, *(UploadCursor.load(folder).name for folder in folders)]):
        tally.add_problem("other", f"{place}: MLflow has the runs {dict(stored)}")
    for folder in folders:
        run_id = UploadCursor.load(folder).run_id
        metrics = client.get_run(run_id).data.metrics
        histories = [client.get_metric_history(run_id, metric) for metric in metrics]
        points = Counter((m.key, m.step, m.timestamp, str(m.value)) for history in histories for m in history)
        recorded = recorded_points(folder)
        if recorded - points:
            tally.add_problem("lost", f"{place}/{folder.name}: {len(recorded - points)} values in MLflow")
        if points - recorded:
            tally.add_problem("duplicated", f"{place}/{folder.name}: {len(points - recorded)} values in MLflow")


def check_sweep(case: SweepCase, tally: Tally) -> None:
    """Check the study, the records of its trials, the results and MLflow after the sweep has completed."""
    wait_for_marked_end(case.marker, UPLOAD_SECONDS, tally)
    case.remember_ended(tally)
    trials = case.read_trials()
    check_trial_states(case, trials, tally)
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            check_trial_record(case, trial, tally)
    check_results(case, trials, tally)
    if case.is_tracked:
        check_sweep_store(case, tally)
    for path in list_temporary_files(case.folder / "outputs", case.cache):
        tally.add_problem("leftover files", str(path))


def check_trial_states(case: SweepCase, trials: list[FrozenTrial], tally: Tally) -> None:
    """Check that exactly `n_trials` trials have completed or were pruned, each once, retries included."""
    name = case.folder.name
    successes: Counter[int] = Counter()
    deaths: Counter[int] = Counter()
    for trial in trials:
        root = trial.user_attrs.get(RETRY_OF, trial.number)
        successes[root] += trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        has_died = trial.user_attrs.get(RESULT, {}).get("reason") == WORKER_DIED["reason"]
        deaths[root] = max(deaths[root], trial.user_attrs.get(RETRIES, 0) + has_died)
        if not trial.state.is_finished():
            tally.add_problem("lost", f"{name}: trial {trial.number} is {trial.state.name}")
    for root, count in successes.items():
        if count > 1:
            tally.add_problem("duplicated", f"{name}: trial {root} ended {count} times")
        elif not count and deaths[root] >= MAX_WORKER_DEATHS:
            tally.notes["trials given up after two deaths"] += 1
        elif not count:
            tally.add_problem("lost", f"{name}: trial {root} never completed")
    if len(successes) != case.n_trials:
        tally.add_problem("other", f"{name}: {len(successes)} trials, not {case.n_trials}")


def check_trial_record(case: SweepCase, trial: FrozenTrial, tally: Tally) -> None:
    """Check that a completed trial has recorded each step once, and the value that the study has."""
    entries = [entry for entry, _ in read_entries(case.sweep / str(trial.number) / METRICS_FILE)]
    steps = [entry["step"] for entry in entries if "train/loss" in entry.get("metrics", {})]
    if steps != list(range(1, case.steps + 1)):
        tally.add_problem("lost", f"{case.folder.name}: trial {trial.number} has {len(steps)} steps")
    losses = [entry["metrics"]["val/loss"] for entry in entries if "val/loss" in entry.get("metrics", {})]
    if entries[-1].get("status") != "completed" or min(losses) != trial.value:
        tally.add_problem("different", f"{case.folder.name}: trial {trial.number}: {trial.value}, not {min(losses)}")


def check_results(case: SweepCase, trials: list[FrozenTrial], tally: Tally) -> None:
    """Check that the best value is in the result files, and that its trial run on its own gives the same value."""
    best = min((t for t in trials if t.state == TrialState.COMPLETE), key=lambda trial: trial.value or 0.0)
    results = yaml.safe_load((case.sweep / "optimization_results.yaml").read_text())
    if results["best_value"] != best.value:
        tally.add_problem("different", f"{case.folder.name}: best value {results['best_value']}, not {best.value}")
    values = [f"{key}={value}" for key, value in best.params.items()]
    alone = runner.run(compose_config([*SMALL_TRIAL, *case.list_places(), *values, "observers=metrics_only"]))
    tally.n_compared += 1
    tally.n_equal += alone.best_val_loss == best.value
    if alone.best_val_loss != best.value:
        tally.add_problem("different", f"{case.folder.name}: trial {best.number} alone gives {alone.best_val_loss}")


def check_sweep_store(case: SweepCase, tally: Tally) -> None:
    """Check that MLflow has the sweep and every trial once, with all recorded values."""
    store = f"sqlite:///{case.folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        SweepUploader(case.sweep, lambda text: None)()  # what a killed uploader has left; as `plateau sync`
    folders = [path for path in case.sweep.iterdir() if path.name.isdecimal() and read_start_entry(path)]
    client = connect_to_store(store)
    check_uploads(client, ["default"], folders, case.folder.name, tally)
