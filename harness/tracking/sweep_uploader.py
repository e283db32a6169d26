"""Brings a sweep's folder to MLflow: a parent run from sweep.json and summary.json, and the trials nested under it."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.core.files import FileLock, is_locked
from harness.record import metrics_file
from harness.tracking.mlflow_client import (
    MAX_VALUE_LENGTH,
    LogBatch,
    TrackingClient,
    UploadError,
    convert_errors,
    sanitize_key,
)
from harness.tracking.run_uploader import (
    MLFLOW_STATUSES,
    PROCESS_DIED,
    UploadCursor,
    UploadResult,
    add_column_tags,
    upload_run,
)
from harness.tracking.store_uri import hide_credentials

SWEEP_FILE, SUMMARY_FILE = "sweep.json", "summary.json"
RUNNING_SUMMARY = {"status": "running", "ended_at_ms": None, "metrics": {}, "tags": {}, "history": []}
ARTIFACT_PATTERNS = ("sweep.yaml", "preflight.txt", "optimization_results.yaml", "figures/*.png")
MAX_FAILED_TRIALS = 3
"""Trials in one pass that may not go over before the store is left alone."""


@dataclass
class SweepCursor:
    """What MLflow has of a sweep's own facts, beside them in mlflow.json; of the trials, each has its own."""

    steps: list[int] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Names and digests."""

    @classmethod
    def load(cls, folder: Path) -> "SweepCursor":
        path = folder / "mlflow.json"
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def save(self, folder: Path) -> None:
        metrics_file.write_json(folder / "mlflow.json", asdict(self))


def is_sweep_folder(folder: Path) -> bool:
    return (folder / SWEEP_FILE).is_file()


def read_sweep_identity(folder: Path) -> dict[str, Any]:
    """Who a sweep is: id, name, uri, experiment, started_at_ms, params, tags."""
    return json.loads((folder / SWEEP_FILE).read_text())


def mark_sweep_running(folder: Path) -> FileLock:
    """Return a lock that marks the sweep as running until it is released or this process ends."""
    lock = FileLock(folder / SWEEP_FILE, required=False)
    if not is_locked(folder / SWEEP_FILE):  # another process may run the same sweep
        lock.acquire()
    return lock


class SweepUploader:
    """Brings over what is missing of a sweep each time it is called, with one client for all of it."""

    def __init__(self, folder: Path, on_message: Callable[[str], None] = print) -> None:
        self.folder, self.on_message = folder, on_message
        self.identity = read_sweep_identity(folder)
        self.client: TrackingClient | None = None
        self.run_id: str | None = None
        self.complete_trials: set[str] = set()
        """Trials of which nothing is missing any more; they are not looked at again."""

    def __call__(self) -> UploadResult:
        with FileLock(self.folder / "mlflow.lock", required=False), convert_errors(self.identity["uri"]):
            is_held = is_locked(self.folder / SWEEP_FILE)  # asked before reading: what is let go of is whole
            summary = self._read_summary(is_held)
            is_over = summary["status"] != "running"
            self.client = self.client or TrackingClient(self.identity["uri"])
            self.run_id = self.run_id or self._start_run(is_over)
            lines, files = self._upload_trials()
            cursor = SweepCursor.load(self.folder)
            lines += self._upload_summary(summary, cursor)
            if is_over:
                files += self._upload_artifacts(cursor)
                self.client.end_run(self.run_id, MLFLOW_STATUSES[summary["status"]], summary["ended_at_ms"])
            is_complete = is_over and not self._pending_trials()
            return UploadResult(lines, files, is_complete, hide_credentials(self.identity["uri"]))

    def _read_summary(self, is_held: bool | None) -> dict[str, Any]:
        """What summary.json says; a sweep that says it runs, and that no process holds, died."""
        path = self.folder / SUMMARY_FILE
        summary = RUNNING_SUMMARY | (json.loads(path.read_text()) if path.exists() else {})
        if is_held:
            return summary | {"status": "running"}
        if is_held is None or summary["status"] != "running":
            return summary
        ended_at = (path if path.exists() else self.folder / SWEEP_FILE).stat().st_mtime
        return summary | PROCESS_DIED | {"ended_at_ms": int(ended_at * 1000)}

    def _start_run(self, is_over: bool) -> str:
        """Make or find the parent run; parameters are written once, so one that has changed since is a tag."""
        sweep = self.identity
        run_id = self.client.get_or_create_run(sweep["experiment"], sweep["id"], sweep["name"], sweep["started_at_ms"])
        known = self.client.read_params(run_id)
        params, tags = {}, add_column_tags(sweep["tags"])
        for name, value in sweep["params"].items():
            written = known.get(sanitize_key(name))
            if written is None:
                params[name] = value
            elif written != value[:MAX_VALUE_LENGTH]:
                tags[name] = value
        self.client.log_batch(run_id, LogBatch(params=params, tags=tags))
        if not is_over:
            self.client.reopen_run(run_id)
        return run_id

    def _upload_trials(self) -> tuple[int, int]:
        """The lines and files brought over; the first failure, once those after it had their turn."""
        lines, files, failures = 0, 0, []
        for folder in self._pending_trials():
            try:
                uploaded = upload_run(folder, self.on_message, self.client)
            except UploadError as error:
                failures.append(error)
                if len(failures) == MAX_FAILED_TRIALS:
                    break
                continue
            lines, files = lines + uploaded.lines, files + uploaded.files
            if uploaded.is_complete:
                self.complete_trials.add(folder.name)
        if failures:
            raise failures[0]
        return lines, files

    def _pending_trials(self) -> list[Path]:
        """The runs' folders of which something may be missing; one without a cursor goes where the sweep goes."""
        names = {entry.name for entry in os.scandir(self.folder) if entry.is_dir()} - self.complete_trials
        folders = [self.folder / name for name in sorted(names, key=lambda name: (len(name), name))]
        found = [folder for folder in folders if (folder / metrics_file.METRICS_FILE).is_file()]
        for folder in found:
            if not (folder / "mlflow.json").exists():
                UploadCursor(self.identity["uri"], self.identity["experiment"]).save(folder)
        return found

    def _upload_summary(self, summary: dict[str, Any], cursor: SweepCursor) -> int:
        """Bring over what summary.json has new; the number of trials that it tells of for the first time."""
        known = set(cursor.steps)
        history = [entry for entry in summary["history"] if entry[0] not in known]
        points = [(name, float(value), at_ms, step) for step, row, at_ms in history for name, value in row.items()]
        cursor.steps += [step for step, _, _ in history]
        step = max(cursor.steps, default=0)
        told = {name: at_ms for _, row, at_ms in summary["history"] for name in row}
        now = time.time_ns() // 1_000_000  # of two values at one instant MLflow would take the larger
        metrics = {name: float(value) for name, value in summary["metrics"].items()}
        changed = _changed_items(metrics, cursor.metrics)
        points += [(name, value, told.get(name, now), step) for name, value in changed.items()]
        last = {name: summary[name] for name in ("status", "reason") if summary.get(name)}
        said = self._best_trial_tags(summary["tags"]) | summary["tags"] | last
        tags = _changed_items(
            dict.fromkeys(cursor.tags, "") | said, cursor.tags
        )  # what no longer holds is said no longer
        if points or tags:
            self.client.log_batch(self.run_id, LogBatch(metrics=points, tags=tags))
            cursor.metrics, cursor.tags = metrics, said
            cursor.save(self.folder)
        return len(history)

    def _best_trial_tags(self, tags: dict[str, str]) -> dict[str, str]:
        """The best trial's run and a link to it, once MLflow has that run."""
        number = tags.get("best_trial")
        run_id = UploadCursor.load(self.folder / number).run_id if number else None
        if run_id is None:
            return {}
        page = f"#/experiments/{self.client.get_or_create_experiment(self.identity['experiment'])}/runs/{run_id}"
        return {"best_run_id": run_id, "mlflow.note.content": f"Best: [trial {number}]({page})"}

    def _upload_artifacts(self, cursor: SweepCursor) -> int:
        """The number of artifacts that are new or have changed."""
        files = 0
        for path in sorted(path for pattern in ARTIFACT_PATTERNS for path in self.folder.glob(pattern)):
            name, digest = path.relative_to(self.folder), hashlib.sha256(path.read_bytes()).hexdigest()
            if cursor.files.get(str(name)) != digest:
                self.client.log_artifact(self.run_id, path, str(name.parent) if name.parent.name else None)
                cursor.files[str(name)] = digest
                cursor.save(self.folder)
                files += 1
        return files


def _changed_items(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in new.items() if name not in old or old[name] != value}
