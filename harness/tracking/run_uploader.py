"""Upload of a run's metrics.jsonl to MLflow, during the run or long after it."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.component_keys import rename_component_keys
from harness.core.credentials import hide_credentials
from harness.core.effective_settings import EffectiveSettings
from harness.core.files import FileLock, is_locked
from harness.diagnosis.run_facts import CONSTANT_PREFIX
from harness.record import results_file
from harness.record.metrics_file import find_record, read_entries
from harness.record.sweep_files import read_setting_key
from harness.record.trial_record import is_foreign, read_values
from harness.tracking.diagnosis_tags import DIAGNOSIS_TAG_PREFIX, format_diagnosis_note, make_diagnosis_tags
from harness.tracking.mlflow_client import (
    MAX_METRICS_PER_BATCH,
    MAX_VALUE_LENGTH,
    PARENT_TAG,
    LogBatch,
    Point,
    TrackingClient,
    convert_errors,
    sanitize_key,
)
from harness.tracking.run_files import MAX_LOG_BYTES, is_own_file, list_artifacts, shorten_log
from harness.tracking.run_names import STUDY_TAG, TRIAL_TAG, format_run_name
from harness.tracking.runs_page import OWN_COLUMNS, format_run_page
from harness.tracking.store_uri import check_recorded_uri
from harness.tracking.upload_cursor import CURSOR_FILE, LOCK_FILE, UploadCursor

Entry = dict[str, Any]  # an entry of metrics.jsonl

MLFLOW_STATUSES = {
    "completed": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "paused": "SCHEDULED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
PROCESS_DIED = {"status": "failed", "reason": "its process died"}
END_TAGS, EXPECTATIONS_TAG = ("status", "reason", "best_step"), "expectations"
OBJECTIVE = "objective"  # metric of trials that other programs ran, since each study names its objective differently

SWEEP_TAG = "harness.sweep"  # id of the sweep that a trial belongs to
RESUMED_TAG = "resumed.run_id"  # MLflow run that this one resumes
EFFECTIVE_TAG = "harness.effective"  # the settings in effect as JSON
DESCRIPTION_TAG = "mlflow.note.content"  # Markdown that the UI shows above a run
# Our tags for which the UI has columns under other names.
UI_COLUMN_TAGS = {"command": "mlflow.source.name", "git.commit": "mlflow.source.git.commit", "user": "mlflow.user"}
SOURCE_TYPE_TAG = {"mlflow.source.type": "JOB"}  # of all other types, the UI shows only what follows the last slash
# Metrics that are not uploaded: constants are parameters, and large models have a chart per layer.
UNCHARTED_PREFIXES = ("constant/", "grad_norm/")


@dataclass(frozen=True)
class UploadResult:
    """Numbers of lines and files that one upload added.

    It `is_complete` if the run has ended, or `is_paused` for now, and MLflow has all of it.
    """

    lines: int
    files: int
    is_complete: bool
    uri: str
    is_paused: bool = False


def upload_run(
    folder: Path, on_message: Callable[[str], None] = print, client: TrackingClient | None = None
) -> UploadResult:
    """Upload what MLflow lacks of the run in `folder`.

    Raises:
        UploadError: If the store did not accept it; call again later.
        ConfigError: If the store is not the user's.
    """
    with FileLock(folder / LOCK_FILE, required=False):
        # asked before reading: a run that is not being written has written everything
        is_running = is_locked(find_record(folder))
        cursor = UploadCursor.load(folder)
        if cursor.is_complete and not cursor.lacks_parent and cursor.results == results_file.result_digests(folder):
            return UploadResult(0, 0, True, hide_credentials(cursor.uri), cursor.is_paused)
        check_recorded_uri(cursor.uri, CURSOR_FILE)
        with convert_errors(cursor.uri):
            if client is None or client.uri != cursor.uri:
                client = TrackingClient(cursor.uri)
            return _RunUpload(folder, cursor, client, on_message).run(is_running)


class _RunUpload:
    """One pass over what is new in a run's folder."""

    def __init__(
        self, folder: Path, cursor: UploadCursor, client: TrackingClient, on_message: Callable[[str], None]
    ) -> None:
        self.folder, self.cursor, self.client, self.on_message = folder, cursor, client, on_message
        self.path = find_record(folder)
        self.batch, self.reached = LogBatch(), cursor.offset

    @property
    def run_id(self) -> str:
        assert self.cursor.run_id is not None  # the start entry has been read
        return self.cursor.run_id

    def run(self, is_running: bool | None) -> UploadResult:
        if self.cursor.is_reopened:
            self._reopen_run()
        lines, end = self._read_new_entries()
        has_ended = is_running is False or (is_running is None and end is not None)
        files = 0
        if self.cursor.run_id is not None:  # None: the process died before it wrote a line
            if lines or has_ended:
                self._attach_to_sweep()
            outcome = end or {**PROCESS_DIED, "at_ms": int(self.path.stat().st_mtime * 1000)}
            if has_ended:
                was_dead = end is not None and bool(self.cursor.files)  # its tags say so
                tags = {name: str(outcome.get(name) or "") for name in END_TAGS}
                self.batch.tags |= {name: text for name, text in tags.items() if text or was_dead}
                self.batch.metrics += self._objective_points(end) if end else []
            self._flush()
            files = (self._finish_run(end, outcome) if has_ended else 0) + self._upload_results()
        return UploadResult(lines, files, has_ended, hide_credentials(self.cursor.uri), self.cursor.is_paused)

    def _reopen_run(self) -> None:
        """Take back the end of a run that is continued, and find what MLflow has of the steps that are taken again."""
        self.client.reopen_run(self.run_id, {*END_TAGS, EXPECTATIONS_TAG, DESCRIPTION_TAG}, DIAGNOSIS_TAG_PREFIX)
        recorded: Counter[tuple[str, int]] = Counter()
        for entry, offset in read_entries(self.path):
            if offset > self.cursor.offset:
                break
            recorded.update((sanitize_key(name), entry["step"]) for name in entry.get("metrics", {}))
            if entry["kind"] == "diagnosis":
                self.batch.tags |= make_diagnosis_tags([entry["diagnosis"]])
        if link := self._resumed_link(self._start["tags"]):
            self.batch.tags[DESCRIPTION_TAG] = link
        self.client.log_batch(self.run_id, self.batch)
        self.batch = LogBatch()
        ahead: dict[str, list[int]] = {}
        for name, step in (self.client.count_points(self.run_id) - recorded).elements():
            ahead.setdefault(name, []).append(step)
        self.cursor.ahead, self.cursor.is_reopened = ahead, False
        self.cursor.save(self.folder)

    def _has_point(self, name: str, step: int) -> bool:
        """Return whether MLflow has a point of a step that was taken again; each of them counts once."""
        steps = self.cursor.ahead.get(sanitize_key(name), [])
        if step in steps:
            steps.remove(step)
            return True
        return False

    def _read_new_entries(self) -> tuple[int, Entry | None]:
        """Add new entries to the batch. Return their number without the end entry, and the end entry."""
        lines = 0
        for entry, offset in read_entries(self.path, self.cursor.offset):
            if entry["kind"] == "end":
                return lines, entry
            if entry.get("is_partial") and (status := self._read_end_status(offset)) in (None, "interrupted"):
                if status is None:  # not written yet
                    break
                continue  # a continued run makes a whole row of these steps
            if entry["kind"] == "start":
                self._start_run(entry)
            values = {name: value for name, value in entry.get("metrics", {}).items() if is_charted(name)}
            if len(self.batch.metrics) + len(values) > MAX_METRICS_PER_BATCH:
                self._flush()
            new = {name: value for name, value in values.items() if not self._has_point(name, entry["step"])}
            self.batch.metrics += [(name, value, entry["at_ms"], entry["step"]) for name, value in new.items()]
            self.batch.tags |= {f"unit.{name}": unit for name, unit in entry.get("units", {}).items()}
            if entry["kind"] == "diagnosis":
                self.batch.tags |= make_diagnosis_tags([entry["diagnosis"]])
            if entry["kind"] == "final_diagnosis":
                self._conclude(entry)
            lines, self.reached = lines + 1, offset
        return lines, None

    def _read_end_status(self, offset: int) -> str | None:
        """Return the status in the entry at `offset` if it is the end of the run."""
        return next((entry.get("status") for entry, _ in read_entries(self.path, offset)), None)

    def _start_run(self, start: Entry) -> None:
        """Find or create the run and log its parameters, tags and data set."""
        experiment = self.cursor.experiment
        self.cursor.name = name = format_run_name(start)
        user = start["tags"].get("user")
        columns = list_trial_columns(start["searched"]) if is_foreign(start) else OWN_COLUMNS
        self.client.show_columns(experiment, columns)
        for replaced in self.cursor.replaced:
            self.client.delete_run(replaced)
        self.cursor.replaced = []
        self.cursor.run_id = self.client.get_or_create_run(experiment, start["id"], name, start["at_ms"], user)
        self.cursor.sweep = start["tags"].get(SWEEP_TAG)
        self.cursor.save(self.folder)
        params = select_shown_params(start)
        params |= {f"{CONSTANT_PREFIX}{name}": str(value) for name, value in start["constants"].items()}
        for name, value in params.items():
            if len(value) > MAX_VALUE_LENGTH:
                limit = f"{MAX_VALUE_LENGTH} of {len(value)} characters"
                self.on_message(f"{name}: MLflow takes {limit}; config.yaml has the whole value")
        self.batch.params = params
        self.batch.tags = add_column_tags(start["tags"])
        if STUDY_TAG in start["tags"]:
            self.batch.tags[TRIAL_TAG] = start["name"]  # the folder of a trial is its number
        if not is_foreign(start):
            self.batch.tags[EFFECTIVE_TAG] = json.dumps(start["effective"])
        if link := self._resumed_link(start["tags"]):
            self.batch.tags[DESCRIPTION_TAG] = link
        if start["dataset"].get("name") and start["dataset"].get("digest"):
            self.client.log_dataset(self.run_id, start["dataset"])

    @cached_property
    def _start(self) -> Entry:
        return next(entry for entry, _ in read_entries(self.path))

    def _objective_points(self, end: Entry) -> list[Point]:
        """Return the objectives of a trial that another program ran, also by name where it has no curve of that name.

        Our own runs have `val/best_loss` already.
        """
        if not is_foreign(self._start):
            return []
        values = {name: value for name, value in read_values(self._start, end).items() if math.isfinite(value)}
        curves = {name for entry, _ in read_entries(self.path) for name in entry.get("metrics", {})}
        named = {OBJECTIVE if len(values) == 1 else f"{OBJECTIVE}/{name}": value for name, value in values.items()}
        named |= {name: value for name, value in values.items() if name not in curves}
        return [(name, value, end["at_ms"], end["step"]) for name, value in named.items()]

    def _resumed_link(self, tags: dict[str, str]) -> str:
        """Return a link to the run that this one resumes, or an empty string."""
        if RESUMED_TAG not in tags:
            return ""
        page = format_run_page(self.client.get_or_create_experiment(self.cursor.experiment), tags[RESUMED_TAG])
        return f"Resumed from step {tags['resumed.step']} of [{tags['resumed.run']}]({page})"

    def _conclude(self, final: Entry) -> None:
        """Set the tags of the final diagnosis and the run's description: what it resumes, and its diagnoses."""
        self.batch.tags |= make_diagnosis_tags(final["resolved"], ", not at the end") | make_diagnosis_tags(
            final["diagnoses"]
        )
        if final["expectations"]:
            self.batch.tags[EXPECTATIONS_TAG] = final["expectations"]
        diagnoses = map(format_diagnosis_note, final["diagnoses"])
        paragraphs = [self._resumed_link(self._start["tags"]), *diagnoses, final["expectations"]]
        if any(paragraphs):
            self.batch.tags[DESCRIPTION_TAG] = "\n\n".join(filter(None, paragraphs))

    def _attach_to_sweep(self) -> None:
        """Nest the run under its sweep's parent run, once MLflow has that."""
        if self.cursor.sweep is not None and self.cursor.parent is None:
            self.cursor.parent = self.client.find_run(self.cursor.experiment, self.cursor.sweep)
            if self.cursor.parent is not None:
                self.batch.tags[PARENT_TAG] = self.cursor.parent

    def _flush(self) -> None:
        self.client.log_batch(self.run_id, self.batch)
        self.batch = LogBatch()
        if self.reached > self.cursor.offset:
            self.cursor.offset = self.reached
            self.cursor.save(self.folder)

    def _finish_run(self, end: Entry | None, outcome: Entry) -> int:
        """Upload the artifacts, set the status and return the number of new files; none of a run that is paused."""
        status, is_paused = MLFLOW_STATUSES[outcome["status"]], outcome["status"] == "paused"
        files = 0
        if is_paused:
            self.client.set_status(self.run_id, status)
        else:
            files = sum(self._upload_artifact(path) for path in list_artifacts(self.folder, self._start, end))
            self.client.end_run(self.run_id, status, outcome["at_ms"])
        self.cursor.is_complete, self.cursor.is_paused = True, is_paused
        self.cursor.save(self.folder)
        return files

    def _upload_results(self) -> int:
        """Upload new result files, their metrics and tables, and return their number."""
        changed = results_file.result_digests(self.folder).items() - self.cursor.results.items()
        for name, digest in changed:
            result = results_file.read_result(self.folder / name)
            metrics = [(metric, float(value), result.at_ms, result.step) for metric, value in result.metrics.items()]
            tags = {f"unit.{metric}": unit for metric, unit in result.units.items()}
            self.client.log_batch(self.run_id, LogBatch(metrics=metrics, tags=tags))
            self.client.log_table(self.run_id, result.columns, result.rows, f"{Path(name).stem}_table.json")
            if is_own_file(self.folder / name, self.folder, self.on_message):
                self.client.log_artifact(self.run_id, self.folder / name)
            self.cursor.results[name] = digest
            self.cursor.save(self.folder)
        return len(changed)

    def _upload_artifact(self, path: Path) -> bool:
        if not path.exists() or not is_own_file(path, self.folder, self.on_message):
            return False
        name = path.relative_to(self.folder)
        if str(name) in self.cursor.files:
            return False
        if path.suffix == ".log" and path.stat().st_size > MAX_LOG_BYTES:
            self.client.log_text(self.run_id, shorten_log(path, MAX_LOG_BYTES), str(name))
        else:
            self.client.log_artifact(self.run_id, path, str(name.parent) if name.parent.name else None)
        self.cursor.files.append(str(name))
        self.cursor.save(self.folder)
        return True


def add_column_tags(tags: dict[str, str]) -> dict[str, str]:
    """Return `tags` with those that the MLflow UI has a column for repeated under its names."""
    columns = {column: tags[name] for name, column in UI_COLUMN_TAGS.items() if name in tags}
    return {**columns, **(SOURCE_TYPE_TAG if "command" in tags else {}), **tags}


def select_shown_params(start: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a run that MLflow shows, from its start entry; the files that are uploaded have all.

    Those of our observers do not change the run, and repeat thresholds, expectations and the address of the store.
    """
    params = rename_component_keys(start["params"])
    if is_foreign(start):
        searched = {read_setting_key(key): str(value) for key, value in start["searched"].items()}
        return rename_component_keys(searched) | params
    shown = {key: value for key, value in params.items() if not key.startswith("observers.")}
    return shown | EffectiveSettings.from_json(start["effective"]).to_params()


def list_trial_columns(searched: Iterable[str]) -> list[str]:
    """Return the columns of the MLflow UI that show trials which another program ran, by their searched keys."""
    keys = rename_component_keys(dict.fromkeys(map(read_setting_key, searched), ""))
    return [f"metrics.`{OBJECTIVE}`", *(f"params.`{sanitize_key(key)}`" for key in keys)]


def is_charted(metric: str) -> bool:
    """Return whether MLflow gets the curve of a metric. metrics.jsonl, which is uploaded as a file, has all."""
    return not metric.startswith(UNCHARTED_PREFIXES)
