"""Brings to MLflow what it lacks of a run's metrics.jsonl, now or long after the run."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.core.files import FileLock, is_locked
from harness.record import metrics_file, results_file
from harness.tracking.mlflow_client import (
    MAX_METRICS_PER_BATCH,
    MAX_VALUE_LENGTH,
    PARENT_TAG,
    LogBatch,
    TrackingClient,
    convert_errors,
)
from harness.tracking.store_uri import DEFAULT_EXPERIMENT, default_store_uri, hide_credentials

MLFLOW_STATUSES = {
    "completed": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
PROCESS_DIED = {"status": "failed", "reason": "its process died"}
END_TAGS = ("status", "reason", "best_step")
SWEEP_TAG = "harness.sweep"
"""The tag of a trial's record that names its sweep."""
RESUMED_TAG = "resumed.run_id"
"""The tag of a record that names the MLflow run which it goes on from."""
DESCRIPTION_TAG = "mlflow.note.content"
"""The description, in Markdown, that the UI shows of a run."""
DIAGNOSIS_TAG_PREFIX = "diagnosis."
"""Begins the tags of what diagnosis says."""
UI_COLUMN_TAGS = {"command": "mlflow.source.name", "git.commit": "mlflow.source.git.commit", "user": "mlflow.user"}
"""Our tags that the MLflow UI shows under names of its own."""


@dataclass
class UploadCursor:
    """What MLflow has of a record, beside it in mlflow.json."""

    uri: str
    experiment: str
    run_id: str | None = None
    parent: str | None = None
    sweep: str | None = None
    offset: int = 0
    files: list[str] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    is_complete: bool = False

    @classmethod
    def load(cls, folder: Path) -> "UploadCursor":
        """A run recorded without MLflow goes to the default store."""
        path = folder / "mlflow.json"
        return cls(**json.loads(path.read_text())) if path.exists() else cls(default_store_uri(), DEFAULT_EXPERIMENT)

    @property
    def lacks_parent(self) -> bool:
        """Whether it belongs to a sweep whose run MLflow did not have yet."""
        return self.sweep is not None and self.parent is None

    def save(self, folder: Path) -> None:
        metrics_file.write_json(folder / "mlflow.json", asdict(self))


@dataclass(frozen=True)
class UploadResult:
    """What one upload brought over; `is_complete` when the run has ended and MLflow has all of it."""

    lines: int
    files: int
    is_complete: bool
    uri: str


def upload_run(
    folder: Path, on_message: Callable[[str], None] = print, client: TrackingClient | None = None
) -> UploadResult:
    """Bring over what is missing, nothing twice; UploadFailed, to be called again, where the store does not take it."""
    with FileLock(folder / "mlflow.lock", required=False):
        is_held = is_locked(folder / metrics_file.METRICS_FILE)  # asked before reading: what is let go of is whole
        cursor = UploadCursor.load(folder)
        if cursor.is_complete and not cursor.lacks_parent and cursor.results == results_file.result_digests(folder):
            return UploadResult(0, 0, True, hide_credentials(cursor.uri))
        with convert_errors(cursor.uri):
            if client is None or client.uri != cursor.uri:
                client = TrackingClient(cursor.uri)
            return _RunUpload(folder, cursor, client, on_message).run(is_held)


class _RunUpload:
    """One pass over what is new in a record."""

    def __init__(
        self, folder: Path, cursor: UploadCursor, client: TrackingClient, on_message: Callable[[str], None]
    ) -> None:
        self.folder, self.cursor, self.client, self.on_message = folder, cursor, client, on_message
        self.batch, self.reached = LogBatch(), cursor.offset

    def run(self, is_held: bool | None) -> UploadResult:
        lines, end = self._read_new_entries()
        has_ended = is_held is False or (is_held is None and end is not None)
        files = 0
        if self.cursor.run_id is not None:  # else its process died before it said anything
            if lines or has_ended:
                self._attach_to_sweep()
            said = end or {
                **PROCESS_DIED,
                "at_ms": int((self.folder / metrics_file.METRICS_FILE).stat().st_mtime * 1000),
            }
            if has_ended:
                self.batch.tags |= {name: str(said[name]) for name in END_TAGS if said.get(name)}
            self._flush()
            files = (self._finish_run(end, said) if has_ended else 0) + self._upload_results()
        return UploadResult(lines, files, has_ended, hide_credentials(self.cursor.uri))

    def _read_new_entries(self) -> tuple[int, dict[str, Any] | None]:
        """Everything but the end, which is returned with the number of lines before it."""
        lines = 0
        for entry, offset in metrics_file.read_entries(self.folder / metrics_file.METRICS_FILE, self.cursor.offset):
            if entry["kind"] == "end":
                return lines, entry
            if entry["kind"] == "start":
                self._start_run(entry)
            values = entry.get("metrics", {})
            if len(self.batch.metrics) + len(values) > MAX_METRICS_PER_BATCH:
                self._flush()
            self.batch.metrics += [(name, value, entry["at_ms"], entry["step"]) for name, value in values.items()]
            self.batch.tags |= {
                f"unit.{name}": unit for name, unit in entry.get("units", {}).items()
            } | _diagnosis_tags(entry)
            if entry["kind"] == "final_diagnosis":
                self._set_description(entry)
            lines, self.reached = lines + 1, offset
        return lines, None

    def _start_run(self, start: dict[str, Any]) -> None:
        """Make or find the run of this record and say what it is; all of it may be repeated."""
        self.cursor.run_id = self.client.get_or_create_run(
            self.cursor.experiment, start["id"], start["name"], start["at_ms"]
        )
        self.cursor.sweep = start["tags"].get(SWEEP_TAG)
        self.cursor.save(self.folder)
        for name, value in start["params"].items():
            if len(value) > MAX_VALUE_LENGTH:
                self.on_message(
                    f"MLflow takes {MAX_VALUE_LENGTH} of the {len(value)} characters of {name}; config.yaml has them all"
                )
        self.batch.params = start["params"]
        self.batch.tags = add_column_tags(start["tags"])
        if link := self._resumed_link(start["tags"]):
            self.batch.tags[DESCRIPTION_TAG] = link
        if start["dataset"].get("name") and start["dataset"].get("digest"):
            self.client.log_dataset(self.cursor.run_id, start["dataset"])

    def _resumed_link(self, tags: dict[str, str]) -> str:
        """Leads to the run which this one goes on from, if any."""
        if RESUMED_TAG not in tags:
            return ""
        page = f"#/experiments/{self.client.get_or_create_experiment(self.cursor.experiment)}/runs/{tags[RESUMED_TAG]}"
        return f"Goes on from step {tags['resumed.step']} of [{tags['resumed.run']}]({page})"

    def _set_description(self, conclusion: dict[str, Any]) -> None:
        """The run's description: where it comes from, and what holds of it."""
        start, _ = next(metrics_file.read_entries(self.folder / metrics_file.METRICS_FILE))
        said = [
            self._resumed_link(start["tags"]),
            *map(_format_markdown, conclusion["diagnoses"]),
            conclusion["expectations"],
        ]
        if any(said):
            self.batch.tags[DESCRIPTION_TAG] = "\n\n".join(filter(None, said))

    def _attach_to_sweep(self) -> None:
        """Nest the run under its sweep's, once that is there."""
        if self.cursor.lacks_parent:
            self.cursor.parent = self.client.find_run(self.cursor.experiment, self.cursor.sweep)
            if self.cursor.parent is not None:
                self.batch.tags[PARENT_TAG] = self.cursor.parent

    def _flush(self) -> None:
        self.client.log_batch(self.cursor.run_id, self.batch)
        self.batch = LogBatch()
        if self.reached > self.cursor.offset:
            self.cursor.offset = self.reached
            self.cursor.save(self.folder)

    def _finish_run(self, end: dict[str, Any] | None, said: dict[str, Any]) -> int:
        """Files and status; the number of files. A run that left no end died."""
        files = sum(self._upload_artifact(file) for file in self._artifact_paths(end))
        self.client.end_run(self.cursor.run_id, MLFLOW_STATUSES[said["status"]], said["at_ms"])
        self.cursor.is_complete = True
        self.cursor.save(self.folder)
        return files

    def _upload_results(self) -> int:
        """What was measured after the run, with its files; their number."""
        lacking = results_file.result_digests(self.folder).items() - self.cursor.results.items()
        for name, digest in lacking:
            result = results_file.read_result(self.folder / name)
            metrics = [(metric, float(value), result.at_ms, result.step) for metric, value in result.metrics.items()]
            tags = {f"unit.{metric}": unit for metric, unit in result.units.items()}
            self.client.log_batch(self.cursor.run_id, LogBatch(metrics=metrics, tags=tags))
            table = f"{Path(name).stem}_table.json"
            self.client.log_table(self.cursor.run_id, result.columns, result.rows, table)
            self.client.log_artifact(self.cursor.run_id, self.folder / name)
            self.cursor.results[name] = digest
            self.cursor.save(self.folder)
        return len(lacking)

    def _artifact_paths(self, end: dict[str, Any] | None) -> list[Path]:
        """What the end names; without one, what describes a run and lies in its folder."""
        if end:
            described = [self.folder / name for name in end["artifacts"]]
        else:
            described = [path for path in sorted(self.folder.iterdir()) if path.suffix in (".yaml", ".txt", ".patch")]
        return [*described, *sorted((self.folder / "figures").glob("*.png")), self.folder / metrics_file.METRICS_FILE]

    def _upload_artifact(self, path: Path) -> bool:
        name = path.relative_to(self.folder) if path.is_relative_to(self.folder) else Path(path.name)
        if str(name) in self.cursor.files or not path.is_file():
            return False
        self.client.log_artifact(self.cursor.run_id, path, str(name.parent) if name.parent.name else None)
        self.cursor.files.append(str(name))
        self.cursor.save(self.folder)
        return True


def _diagnosis_tags(entry: dict[str, Any]) -> dict[str, str]:
    """A tag for each kind of diagnosis as soon as there is one; at the end what holds then, and what has passed."""
    if entry["kind"] == "diagnosis":
        return _group_by_kind([entry["diagnosis"]], "")
    if entry["kind"] != "final_diagnosis":
        return {}
    expectations = {"expectations": entry["expectations"]} if entry["expectations"] else {}
    return expectations | _group_by_kind(entry["resolved"], ", not at the end") | _group_by_kind(entry["diagnoses"], "")


def _group_by_kind(diagnoses: Sequence[dict[str, Any]], ending: str) -> dict[str, str]:
    told: dict[str, list[str]] = {}
    for one in diagnoses:
        told.setdefault(f"{DIAGNOSIS_TAG_PREFIX}{one['kind']}", []).append(
            f"step {one['step']}, {one['confidence']:.0%}{ending}"
        )
    return {tag: " | ".join(times) for tag, times in told.items()}


def _format_markdown(diagnosis: dict[str, Any]) -> str:
    """One diagnosis in Markdown."""
    tried = f" Try `{' '.join(diagnosis['overrides'])}`." if diagnosis["overrides"] else ""
    return f"**{diagnosis['kind']}** at step {diagnosis['step']} ({diagnosis['confidence']:.0%}): {diagnosis['reason']}.{tried}"


def add_column_tags(tags: dict[str, str]) -> dict[str, str]:
    """`tags`, those that the MLflow UI has a column for under its names too."""
    return {**{column: tags[name] for name, column in UI_COLUMN_TAGS.items() if name in tags}, **tags}
