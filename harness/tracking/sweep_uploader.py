"""Upload of a sweep's folder to MLflow: a parent run from sweep.json and summary.json, its trials nested below."""

import hashlib
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.credentials import hide_credentials
from harness.core.digests import read_json, read_json_as
from harness.core.errors import ConfigError, DamageError
from harness.core.files import FileLock, is_locked
from harness.core.formatting import format_number, objective_label
from harness.record import metrics_file
from harness.record.sweep_files import SPACE_PREFIX, SUMMARY_FILE, SWEEP_FILE
from harness.record.trial_record import OWN_OBJECTIVE, Direction, name_best_metric, name_metric, read_directions
from harness.tracking.mlflow_client import (
    MAX_VALUE_LENGTH,
    LogBatch,
    TrackingClient,
    UploadError,
    convert_errors,
    sanitize_key,
)
from harness.tracking.run_files import is_own_file
from harness.tracking.run_uploader import (
    DESCRIPTION_TAG,
    MLFLOW_STATUSES,
    OBJECTIVE,
    PROCESS_DIED,
    UploadResult,
    add_column_tags,
    list_trial_columns,
    upload_run,
)
from harness.tracking.runs_page import OWN_COLUMNS, format_comparison_page, format_run_page
from harness.tracking.store_uri import check_recorded_uri
from harness.tracking.upload_cursor import CURSOR_FILE, UploadCursor

IDENTITY_KEYS = ("id", "name", "uri", "experiment", "started_at_ms", "params", "tags")
RUNNING_SUMMARY: dict[str, Any] = {"status": "running", "ended_at_ms": None, "metrics": {}, "tags": {}, "history": []}
N_COMPARED = 8
"""Number of trials in the description of a sweep."""
ARTIFACT_PATTERNS = (
    "sweep.yaml",
    "preflight.txt",
    "confirm.json",
    "ablation.json",
    "optimization_results.yaml",
    "figures/*.png",
)
MAX_FAILED_TRIALS = 3
"""Failed trials after which one pass gives up: the store is down."""


@dataclass
class SweepCursor:
    """State of the upload of the parent run, kept in mlflow.json in the sweep's folder. Each trial has its own."""

    steps: list[int] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # digests by name
    ending: str = ""  # digest of the end of the sweep that was uploaded completely

    @classmethod
    def load(cls, folder: Path) -> "SweepCursor":
        path = folder / "mlflow.json"
        return read_json_as(cls, path) if path.exists() else cls()

    def save(self, folder: Path) -> None:
        metrics_file.write_json(folder / "mlflow.json", asdict(self))


def is_sweep_folder(folder: Path) -> bool:
    return (folder / SWEEP_FILE).is_file()


def read_sweep_identity(folder: Path) -> dict[str, Any]:
    """Return the IDENTITY_KEYS of a sweep.

    Raises:
        DamageError: If the file is damaged.
        OSError: If it cannot be read.
    """
    identity = read_json(folder / SWEEP_FILE)
    if missing := [key for key in IDENTITY_KEYS if key not in identity]:
        raise DamageError(f"{folder / SWEEP_FILE} is damaged: it has no key {missing[0]}; restore the file")
    if not isinstance(identity["uri"], str):
        raise DamageError(f"{folder / SWEEP_FILE} is damaged: uri: {identity['uri']!r} is not a text; restore the file")
    return identity


def is_upload_complete(folder: Path) -> bool:
    """Return whether MLflow has everything of a sweep that has ended."""
    cursor = SweepCursor.load(folder)
    return cursor.ending == _digest_ending(folder, read_sweep_identity(folder))


def _digest_ending(folder: Path, identity: Mapping[str, Any]) -> str:
    """Return a digest of the summary of a sweep and of the place in MLflow that it is uploaded to."""
    path = folder / SUMMARY_FILE
    content = path.read_bytes() if path.exists() else b""
    return hashlib.sha256(content + f"{identity['experiment']} {identity['uri']}".encode()).hexdigest()


def mark_sweep_running(folder: Path) -> FileLock:
    """Return a lock that marks the sweep as running until it is released or this process ends."""
    lock = FileLock(folder / SWEEP_FILE, required=False)
    if not is_locked(folder / SWEEP_FILE):  # another process may run the same sweep
        lock.acquire()
    return lock


class SweepUploader:
    """Upload what MLflow lacks of a sweep each time it is called, with one client for everything."""

    def __init__(self, folder: Path, on_message: Callable[[str], None] = print) -> None:
        self.folder, self.on_message = folder, on_message
        self.identity = read_sweep_identity(folder)
        self.run_id = ""  # until the parent run exists
        self.complete_trials: dict[str, int | None] = {}  # when their cursors changed; looked at again if they change

    @cached_property
    def client(self) -> TrackingClient:
        return TrackingClient(self.identity["uri"])

    def __call__(self) -> UploadResult:
        check_recorded_uri(self.identity["uri"], SWEEP_FILE)
        with FileLock(self.folder / "mlflow.lock", required=False), convert_errors(self.identity["uri"]):
            # asked before reading: a sweep that is not running has written everything
            is_running, ending = is_locked(self.folder / SWEEP_FILE), _digest_ending(self.folder, self.identity)
            summary = self._read_summary(is_running)
            has_ended = summary["status"] != "running"
            self.run_id = self.run_id or self._start_run(summary, has_ended)
            lines, files = self._upload_trials()
            cursor = SweepCursor.load(self.folder)
            lines += self._upload_summary(summary, cursor)
            if has_ended:
                files += self._upload_artifacts(cursor)
                self.client.end_run(self.run_id, MLFLOW_STATUSES[summary["status"]], summary["ended_at_ms"])
            is_complete = has_ended and not self._pending_trials()
            if is_complete:
                cursor.ending = ending
                cursor.save(self.folder)
            return UploadResult(lines, files, is_complete, hide_credentials(self.identity["uri"]))

    def _read_summary(self, is_running: bool | None) -> dict[str, Any]:
        """Read summary.json. A sweep whose summary says "running", but which no process holds, has died."""
        path = self.folder / SUMMARY_FILE
        summary = RUNNING_SUMMARY | (read_json(path) if path.exists() else {})
        if is_running:
            return summary | {"status": "running"}
        if is_running is None or summary["status"] != "running":
            return summary
        ended_at = (path if path.exists() else self.folder / SWEEP_FILE).stat().st_mtime
        return summary | PROCESS_DIED | {"ended_at_ms": int(ended_at * 1000)}

    def _start_run(self, summary: dict[str, Any], has_ended: bool) -> str:
        """Return the id of the parent run, created if needed.

        MLflow does not let parameters change, so those that a resumed sweep changed become tags.
        """
        sweep = self.identity
        searched = [name.removeprefix(SPACE_PREFIX) for name in sweep["params"] if name.startswith(SPACE_PREFIX)]
        columns = OWN_COLUMNS if OWN_OBJECTIVE in read_directions(summary) else list_trial_columns(searched)
        self.client.show_columns(sweep["experiment"], columns)
        run_id = self.client.get_or_create_run(
            sweep["experiment"], sweep["id"], sweep["name"], sweep["started_at_ms"], sweep["tags"].get("user")
        )
        logged = self.client.read_params(run_id)
        params, tags = {}, add_column_tags(sweep["tags"])
        for name, value in sweep["params"].items():
            logged_value = logged.get(sanitize_key(name))
            if logged_value is None:
                params[name] = value
            elif logged_value != value[:MAX_VALUE_LENGTH]:
                tags[name] = value
        self.client.log_batch(run_id, LogBatch(params=params, tags=tags))
        if not has_ended:
            self.client.reopen_run(run_id)
        return run_id

    def _upload_trials(self) -> tuple[int, int]:
        """Upload all trials and return the numbers of lines and files; then raise the first error, if any."""
        lines, files = 0, 0
        errors: list[Exception] = []
        for folder in self._pending_trials():
            try:
                result = upload_run(folder, self.on_message, self.client)
            except (UploadError, DamageError, ConfigError) as error:
                errors.append(error)
                if len(errors) == MAX_FAILED_TRIALS:
                    break
                continue
            lines, files = lines + result.lines, files + result.files
            changed_at = _find_change_time(folder)  # before it is read: a worker may continue the trial meanwhile
            cursor = UploadCursor.load(folder)
            has_no_run = cursor.run_id is None  # its process died before it wrote a line
            if result.is_complete and (cursor.is_complete or has_no_run):
                self.complete_trials[folder.name] = changed_at
        if errors:
            raise errors[0]
        return lines, files

    def _pending_trials(self) -> list[Path]:
        """Return the trials' folders, by number, that may not be uploaded completely; each gets a cursor.

        Programs may have written other folders beside them.
        """
        names = {
            entry.name
            for entry in os.scandir(self.folder)
            if entry.name.isdecimal() and entry.is_dir(follow_symlinks=False)
        }
        known = {
            name for name, at in self.complete_trials.items() if _find_change_time(self.folder / name) in (at, None)
        }
        folders = [self.folder / name for name in sorted(names - known, key=lambda name: (len(name), name))]
        trials = [folder for folder in folders if metrics_file.find_record(folder).is_file()]
        for folder in trials:
            if not (folder / "mlflow.json").exists():
                UploadCursor(self.identity["uri"], self.identity["experiment"]).save(folder)
        return trials

    def _upload_summary(self, summary: dict[str, Any], cursor: SweepCursor) -> int:
        """Upload what is new in summary.json and return the number of new trials."""
        known = set(cursor.steps)
        new_rows = [row for row in summary["history"] if row[0] not in known]
        points = [(name, float(value), at_ms, step) for step, row, at_ms in new_rows for name, value in row.items()]
        cursor.steps += [step for step, _, _ in new_rows]
        last_step = max(cursor.steps, default=0)
        logged_at = {name: at_ms for _, row, at_ms in summary["history"] for name in row}
        now = time.time_ns() // 1_000_000  # of two values with one timestamp, MLflow shows the larger
        metrics = {name: float(value) for name, value in summary["metrics"].items()}
        metrics |= _repeat_best_value(read_directions(summary), metrics)
        changed = _changed_items(metrics, cursor.metrics)
        points += [(name, value, logged_at.get(name, now), last_step) for name, value in changed.items()]
        end_tags = {name: summary[name] for name in ("status", "reason") if summary.get(name)}
        tags = self._describe_trials(summary) | summary["tags"] | end_tags
        changed_tags = _changed_items(dict.fromkeys(cursor.tags, "") | tags, cursor.tags)  # empty: no longer true
        if points or changed_tags:
            self.client.log_batch(self.run_id, LogBatch(metrics=points, tags=changed_tags))
            cursor.metrics, cursor.tags = metrics, tags
            cursor.save(self.folder)
        return len(new_rows)

    def _describe_trials(self, summary: dict[str, Any]) -> dict[str, str]:
        """Return tags with the best trial's run, and a description that compares trials."""
        if "groups" in summary:
            return self._describe_groups(summary["groups"])
        best = summary["tags"].get("best_trial")
        objective, direction = next(iter(read_directions(summary).items()))
        metric, sign = f"sweep/{name_metric(objective)}", -1 if direction == "maximize" else 1
        values = {str(number): float(row[metric]) for number, row, _ in summary["history"] if metric in row}
        ranking = sorted(values, key=lambda number: (number != best, math.isnan(values[number]), sign * values[number]))
        cursors = {number: UploadCursor.load(self.folder / number) for number in ranking[:N_COMPARED]}
        run_ids = {number: cursor.run_id for number, cursor in cursors.items() if cursor.run_id}
        if best not in run_ids:
            return {}
        experiment_id = self.client.get_or_create_experiment(self.identity["experiment"])
        comparison = format_comparison_page(experiment_id, run_ids.values())
        header = f"| best trials | {_escape_cell(objective_label(objective))} |"
        lines = [f"[Compare these trials]({comparison})", "", header, "|---|---|"]
        for number, run_id in run_ids.items():
            name = f"[{_escape_cell(cursors[number].name)}]({format_run_page(experiment_id, run_id)})"
            lines.append(f"| {name} | {format_number(values[number])} |")
        return {"best_run_id": run_ids[best], DESCRIPTION_TAG: "\n".join(lines)}

    def _describe_groups(self, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Return a description with a row for each configuration, which links to the comparison of its runs."""
        experiment_id = self.client.get_or_create_experiment(self.identity["experiment"])
        run_ids = {
            name: [run_id for number in group["trials"] if (run_id := UploadCursor.load(self.folder / number).run_id)]
            for name, group in groups.items()
        }
        everything = [run_id for ids in run_ids.values() for run_id in ids]
        lines = [f"[Compare all runs]({format_comparison_page(experiment_id, everything)})"]
        lines += ["", "| configuration | runs | result |", "|---|---|---|"]
        for name, group in groups.items():
            page = format_comparison_page(experiment_id, run_ids[name])
            count = f"[{len(run_ids[name])}]({page})" if run_ids[name] else "0"
            lines.append(f"| {_escape_cell(name)} | {count} | {_escape_cell(group['note'])} |")
        return {DESCRIPTION_TAG: "\n".join(lines)} if everything else {}

    def _upload_artifacts(self, cursor: SweepCursor) -> int:
        """Upload new and changed files and return their number."""
        files = 0
        for path in sorted(path for pattern in ARTIFACT_PATTERNS for path in self.folder.glob(pattern)):
            if not is_own_file(path, self.folder, self.on_message):
                continue
            name, digest = path.relative_to(self.folder), hashlib.sha256(path.read_bytes()).hexdigest()
            if cursor.files.get(str(name)) != digest:
                self.client.log_artifact(self.run_id, path, str(name.parent) if name.parent.name else None)
                cursor.files[str(name)] = digest
                cursor.save(self.folder)
                files += 1
        return files


def _find_change_time(folder: Path) -> int | None:
    """Return when the cursor of a trial was last written, in nanoseconds; None if it is gone."""
    path = folder / CURSOR_FILE
    return path.stat().st_mtime_ns if path.exists() else None


def _repeat_best_value(directions: Mapping[str, Direction], metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the best value of a single objective under the name that it has in the runs of trials, for its column."""
    [objective, *others] = directions
    best = metrics.get(f"sweep/{name_best_metric(objective)}")
    if best is None or (others and objective != OWN_OBJECTIVE):
        return {}
    return {"val/best_loss" if objective == OWN_OBJECTIVE else OBJECTIVE: best}


def _escape_cell(text: str) -> str:
    """Return a text for a cell of a Markdown table."""
    return re.sub(r"([|\\\[\]*`<])", r"\\\1", text)


def _changed_items(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in new.items() if name not in old or old[name] != value}
