"""Brings to MLflow what it lacks of a run's metrics.jsonl, now or long after the run."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.record import metrics_file, results_file
from harness.tracking.mlflow_client import MAX_METRICS, MAX_VALUE, PARENT, Batch, Client, alone, told
from harness.tracking.store_uri import EXPERIMENT, default_uri, shown

STATUSES = {
    "completed": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
DIED = {"status": "failed", "reason": "its process died"}
LAST_TAGS = ("status", "reason", "best_step")
SWEEP = "harness.sweep"
"""The tag of a trial's record that names its sweep."""
RESUMED = "resumed.run_id"
"""The tag of a record that names the MLflow run which it goes on from."""
NOTE = "mlflow.note.content"
"""The description, in Markdown, that the UI shows of a run."""
VERDICT = "verdict."
"""Begins the tags of what diagnosis says."""
COLUMNS = {"command": "mlflow.source.name", "git.commit": "mlflow.source.git.commit", "user": "mlflow.user"}
"""Our tags that the MLflow UI shows under names of its own."""


@dataclass
class Cursor:
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
    def load(cls, folder: Path) -> "Cursor":
        """A run recorded without MLflow goes to the default store."""
        path = folder / "mlflow.json"
        return cls(**json.loads(path.read_text())) if path.exists() else cls(default_uri(), EXPERIMENT)

    @property
    def lacks_parent(self) -> bool:
        """Whether it belongs to a sweep whose run MLflow did not have yet."""
        return self.sweep is not None and self.parent is None

    def save(self, folder: Path) -> None:
        metrics_file.replace(folder / "mlflow.json", asdict(self))


@dataclass(frozen=True)
class Uploaded:
    """What one upload brought over; `is_complete` when the run has ended and MLflow has all of it."""

    lines: int
    files: int
    is_complete: bool
    uri: str


def upload(folder: Path, say: Callable[[str], None] = print, client: Client | None = None) -> Uploaded:
    """Bring over what is missing, nothing twice; UploadFailed, to be called again, where the store does not take it."""
    with alone(folder / "mlflow.lock"):
        is_held = metrics_file.is_held(folder / metrics_file.NAME)  # asked before reading: what is let go of is whole
        cursor = Cursor.load(folder)
        if cursor.is_complete and not cursor.lacks_parent and cursor.results == results_file.digests(folder):
            return Uploaded(0, 0, True, shown(cursor.uri))
        with told(cursor.uri):
            if client is None or client.uri != cursor.uri:
                client = Client(cursor.uri)
            return _Upload(folder, cursor, client, say).run(is_held)


class _Upload:
    """One pass over what is new in a record."""

    def __init__(self, folder: Path, cursor: Cursor, client: Client, say: Callable[[str], None]) -> None:
        self.folder, self.cursor, self.client, self.say = folder, cursor, client, say
        self.batch, self.reached = Batch(), cursor.offset

    def run(self, is_held: bool | None) -> Uploaded:
        lines, end = self._read()
        has_ended = is_held is False or (is_held is None and end is not None)
        files = 0
        if self.cursor.run_id is not None:  # else its process died before it said anything
            if lines or has_ended:
                self._join_sweep()
            said = end or {**DIED, "at_ms": int((self.folder / metrics_file.NAME).stat().st_mtime * 1000)}
            if has_ended:
                self.batch.tags |= {name: str(said[name]) for name in LAST_TAGS if said.get(name)}
            self._flush()
            files = (self._finish(end, said) if has_ended else 0) + self._bring_results()
        return Uploaded(lines, files, has_ended, shown(self.cursor.uri))

    def _read(self) -> tuple[int, dict[str, Any] | None]:
        """Everything but the end, which is returned with the number of lines before it."""
        lines = 0
        for entry, offset in metrics_file.read(self.folder / metrics_file.NAME, self.cursor.offset):
            if entry["kind"] == "end":
                return lines, entry
            if entry["kind"] == "start":
                self._begin(entry)
            values = entry.get("metrics", {})
            if len(self.batch.metrics) + len(values) > MAX_METRICS:
                self._flush()
            self.batch.metrics += [(name, value, entry["at_ms"], entry["step"]) for name, value in values.items()]
            self.batch.tags |= {f"unit.{name}": unit for name, unit in entry.get("units", {}).items()} | _said(entry)
            if entry["kind"] == "conclusion":
                self._describe(entry)
            lines, self.reached = lines + 1, offset
        return lines, None

    def _begin(self, start: dict[str, Any]) -> None:
        """Make or find the run of this record and say what it is; all of it may be repeated."""
        self.cursor.run_id = self.client.make_run(self.cursor.experiment, start["id"], start["name"], start["at_ms"])
        self.cursor.sweep = start["tags"].get(SWEEP)
        self.cursor.save(self.folder)
        for name, value in start["params"].items():
            if len(value) > MAX_VALUE:
                self.say(f"MLflow takes {MAX_VALUE} of the {len(value)} characters of {name}; config.yaml has them all")
        self.batch.params = start["params"]
        self.batch.tags = with_columns(start["tags"])
        if link := self._link(start["tags"]):
            self.batch.tags[NOTE] = link
        if start["dataset"].get("name") and start["dataset"].get("digest"):
            self.client.log_dataset(self.cursor.run_id, start["dataset"])

    def _link(self, tags: dict[str, str]) -> str:
        """Leads to the run which this one goes on from, if any."""
        if RESUMED not in tags:
            return ""
        page = f"#/experiments/{self.client.experiment_id(self.cursor.experiment)}/runs/{tags[RESUMED]}"
        return f"Goes on from step {tags['resumed.step']} of [{tags['resumed.run']}]({page})"

    def _describe(self, conclusion: dict[str, Any]) -> None:
        """The run's description: where it comes from, and what holds of it."""
        start, _ = next(metrics_file.read(self.folder / metrics_file.NAME))
        said = [self._link(start["tags"]), *map(_in_words, conclusion["verdicts"]), conclusion["forecasts"]]
        if any(said):
            self.batch.tags[NOTE] = "\n\n".join(filter(None, said))

    def _join_sweep(self) -> None:
        """Nest the run under its sweep's, once that is there."""
        if self.cursor.lacks_parent:
            self.cursor.parent = self.client.find_run(self.cursor.experiment, self.cursor.sweep)
            if self.cursor.parent is not None:
                self.batch.tags[PARENT] = self.cursor.parent

    def _flush(self) -> None:
        self.client.log(self.cursor.run_id, self.batch)
        self.batch = Batch()
        if self.reached > self.cursor.offset:
            self.cursor.offset = self.reached
            self.cursor.save(self.folder)

    def _finish(self, end: dict[str, Any] | None, said: dict[str, Any]) -> int:
        """Files and status; the number of files. A run that left no end died."""
        files = sum(self._log_file(file) for file in self._files(end))
        self.client.end(self.cursor.run_id, STATUSES[said["status"]], said["at_ms"])
        self.cursor.is_complete = True
        self.cursor.save(self.folder)
        return files

    def _bring_results(self) -> int:
        """What was measured after the run, with its files; their number."""
        lacking = results_file.digests(self.folder).items() - self.cursor.results.items()
        for name, digest in lacking:
            result = results_file.read(self.folder / name)
            metrics = [(metric, float(value), result.at_ms, result.step) for metric, value in result.metrics.items()]
            tags = {f"unit.{metric}": unit for metric, unit in result.units.items()}
            self.client.log(self.cursor.run_id, Batch(metrics=metrics, tags=tags))
            table = f"{Path(name).stem}_table.json"
            self.client.log_table(self.cursor.run_id, result.columns, result.rows, table)
            self.client.log_file(self.cursor.run_id, self.folder / name)
            self.cursor.results[name] = digest
            self.cursor.save(self.folder)
        return len(lacking)

    def _files(self, end: dict[str, Any] | None) -> list[Path]:
        """What the end names; without one, what describes a run and lies in its folder."""
        if end:
            described = [self.folder / name for name in end["artifacts"]]
        else:
            described = [path for path in sorted(self.folder.iterdir()) if path.suffix in (".yaml", ".txt", ".patch")]
        return [*described, *sorted((self.folder / "figures").glob("*.png")), self.folder / metrics_file.NAME]

    def _log_file(self, path: Path) -> bool:
        name = path.relative_to(self.folder) if path.is_relative_to(self.folder) else Path(path.name)
        if str(name) in self.cursor.files or not path.is_file():
            return False
        self.client.log_file(self.cursor.run_id, path, str(name.parent) if name.parent.name else None)
        self.cursor.files.append(str(name))
        self.cursor.save(self.folder)
        return True


def _said(entry: dict[str, Any]) -> dict[str, str]:
    """A tag for each kind of verdict as soon as there is one; at the end what holds then, and what has passed."""
    if entry["kind"] == "verdict":
        return _by_kind([entry["verdict"]], "")
    if entry["kind"] != "conclusion":
        return {}
    forecasts = {"forecasts": entry["forecasts"]} if entry["forecasts"] else {}
    return forecasts | _by_kind(entry["passed"], ", not at the end") | _by_kind(entry["verdicts"], "")


def _by_kind(verdicts: Sequence[dict[str, Any]], ending: str) -> dict[str, str]:
    told: dict[str, list[str]] = {}
    for one in verdicts:
        told.setdefault(f"{VERDICT}{one['kind']}", []).append(f"step {one['step']}, {one['confidence']:.0%}{ending}")
    return {tag: " | ".join(times) for tag, times in told.items()}


def _in_words(verdict: dict[str, Any]) -> str:
    """One verdict in Markdown."""
    tried = f" Try `{' '.join(verdict['overrides'])}`." if verdict["overrides"] else ""
    return f"**{verdict['kind']}** at step {verdict['step']} ({verdict['confidence']:.0%}): {verdict['reason']}.{tried}"


def with_columns(tags: dict[str, str]) -> dict[str, str]:
    """`tags`, those that the MLflow UI has a column for under its names too."""
    return {**{column: tags[name] for name, column in COLUMNS.items() if name in tags}, **tags}
