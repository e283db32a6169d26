"""Hydra callback that gives sweeps of other sweepers a sweep folder and a parent run in MLflow, as ours has.

Hydra loads it at every start, so heavy imports are deferred.
"""

import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from harness.core.credentials import hide_credentials, hide_credentials_in_text
from harness.core.files import FileLock
from harness.record.sweep_files import SPACE_PREFIX

HARNESS_SWEEPER = "harness"
RecordedRun = tuple[int, dict[str, Any], dict[str, Any]]
"""Number of a run, and the first and last entry of its metrics.jsonl."""


class ParentRunCallback(Callback):
    """Write sweep.json and summary.json for each sweep that another sweeper runs."""

    _folder: Path | None = None
    _uri: str
    _sweep_lock: FileLock
    _make_record: Callable[..., logging.LogRecord]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock and the address: launchers pickle callbacks and send them to their jobs."""
        return {"_folder": self._folder}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.runtime.choices["hydra/sweeper"] == HARNESS_SWEEPER or int(os.environ.get("RANK", 0)):
            return
        from harness.record import metrics_file
        from harness.tracking import sweep_uploader

        try:
            identity = _build_identity(config)
        except ValueError:
            return  # the first run reports the invalid key
        self._uri = identity["uri"]
        self._folder = _make_sweep_dir(config)
        self._make_record = hide_credentials_in_logs(config.hydra.overrides.task)
        if hide_credentials(self._uri) != self._uri:
            os.environ["MLFLOW_TRACKING_URI"] = self._uri  # for the runs
        _remove_all_credentials(config)  # Hydra writes it to multirun.yaml
        identity = {"name": self._folder.name, **identity, "uri": hide_credentials(self._uri)}
        metrics_file.write_json(self._folder / sweep_uploader.SWEEP_FILE, identity)
        self._sweep_lock = sweep_uploader.mark_sweep_running(self._folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self._folder is None:
            return
        logging.setLogRecordFactory(self._make_record)
        from harness.record import metrics_file
        from harness.tracking import sweep_uploader
        from harness.tracking.upload_process import UploadProcess

        runs = _read_recorded_runs(self._folder)
        if runs:
            params = sweep_uploader.read_sweep_identity(self._folder)["params"]
            swept = [name.removeprefix(SPACE_PREFIX) for name in params if name.startswith(SPACE_PREFIX)]
            summary = {**_end_status(sys.exc_info()[1]), **_summarize_runs(runs, swept)}
            metrics_file.write_json(self._folder / sweep_uploader.SUMMARY_FILE, summary)
        self._sweep_lock.release()
        if not runs:
            (self._folder / sweep_uploader.SWEEP_FILE).unlink()
        elif "mlflow" in config.observers:
            UploadProcess(self._folder, self._uri).close()


def _remove_all_credentials(config: DictConfig) -> None:
    """Remove credentials from a configuration and its overrides, in place, but for what Hydra's sweeper needs."""
    from harness.config.compose import remove_credentials

    for key, section in config.items_ex(resolve=False):
        if key != "hydra" and isinstance(section, DictConfig):
            remove_credentials(section)
    overrides = config.hydra.overrides.task
    with read_write(overrides):
        for index, override in enumerate(overrides):
            overrides[index] = hide_credentials(override)


def hide_credentials_in_logs(overrides: Iterable[str]) -> Callable[..., logging.LogRecord]:
    """Remove credentials from log records, since Hydra logs all overrides; return the previous record factory."""
    make_record, secret = logging.getLogRecordFactory(), [one for one in overrides if hide_credentials(one) != one]

    def make_public_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        record.msg, record.args = hide_credentials_in_text(record.getMessage(), *secret), ()
        return record

    if secret:
        logging.setLogRecordFactory(make_public_record)
    return make_record


def _make_sweep_dir(config: DictConfig) -> Path:
    """Create a new folder below the project, wherever the command was started, and make it Hydra's sweep folder."""
    from harness.core.paths import project_dir

    wanted = project_dir() / config.hydra.sweep.dir
    for folder in (wanted, *(wanted.with_name(f"{wanted.name}_{attempt}") for attempt in range(1, 1000))):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue
    with read_write(config.hydra):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
    return folder


def _build_identity(config: DictConfig) -> dict[str, Any]:
    """Return the content of sweep.json without the name.

    Raises:
        ValueError: If the MLflow address is invalid.
    """
    from harness.core.paths import project_dir
    from harness.run.provenance import current_command, describe_environment
    from harness.tracking.store_uri import resolve_store_uri

    sweeper = config.hydra.sweeper
    options = {name: sweeper[name] for name in ("n_trials", "n_jobs") if name in sweeper}
    params = {"sweeper": config.hydra.runtime.choices["hydra/sweeper"], **options, **_swept_ranges(config)}
    return {
        "id": uuid.uuid4().hex,
        "uri": resolve_store_uri(config.tracking.uri),
        "experiment": config.tracking.experiment,
        "started_at_ms": _now_ms(),
        "params": {name: str(value) for name, value in params.items()},
        "tags": {**describe_environment(project_dir()), "command": current_command()},
    }


def _swept_ranges(config: DictConfig) -> dict[str, str]:
    """Return the swept ranges as written, by key with the prefix `space.`; the command line overrides the config."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*given, *config.hydra.overrides.task])
    last = {override.key_or_group: override for override in parsed}
    return {f"{SPACE_PREFIX}{key}": one.get_value_string() for key, one in last.items() if one.is_sweep_override()}


def _read_recorded_runs(folder: Path) -> list[RecordedRun]:
    """Return the runs in the folder in the order in which they ended. A run without an end entry has died."""
    from harness.record import metrics_file
    from harness.tracking.run_uploader import PROCESS_DIED

    runs = []
    for path in folder.glob(f"*/{metrics_file.METRICS_FILE}"):
        lines = [entry for entry, _ in metrics_file.read_entries(path) if entry["kind"] in ("start", "end")]
        if lines and path.parent.name.isdecimal():
            end = lines[-1] if lines[-1]["kind"] == "end" else {**PROCESS_DIED, "at_ms": _now_ms()}
            runs.append((int(path.parent.name), lines[0], end))
    return sorted(runs, key=lambda run: run[2]["at_ms"])


def _summarize_runs(runs: list[RecordedRun], swept: list[str]) -> dict[str, Any]:
    """Return metrics, tags and history for summary.json of runs in the order in which they ended."""
    metrics: dict[str, float] = {"sweep/tokens": 0, "sweep/seconds": 0}
    history, best, tags = [], math.inf, {}
    for number, start, end in runs:
        metrics["sweep/tokens"] += end.get("tokens", 0)
        metrics["sweep/seconds"] += end.get("seconds", 0)
        counted = f"sweep/trials.{end['status']}"
        metrics[counted] = metrics.get(counted, 0) + 1
        val_loss = float(end["best_val_loss"]) if end["status"] in ("completed", "pruned") else math.nan
        if end["status"] == "completed" and val_loss < best:
            best = metrics["sweep/best_val_loss"] = val_loss
            params = start["params"]  # without group choices, only with the resulting values
            tags = {"best_trial": str(number), **{f"best.{key}": params[key] for key in swept if key in params}}
        losses = {"sweep/val_loss": val_loss, "sweep/best_val_loss": best}
        history.append([number, {name: loss for name, loss in losses.items() if math.isfinite(loss)}, end["at_ms"]])
    return {"metrics": metrics, "tags": tags, "history": history}


def _end_status(error: BaseException | None) -> dict[str, Any]:
    """Return status, reason and time of a sweep that ends now, with `error` if any."""
    if error is None:
        return {"status": "completed", "ended_at_ms": _now_ms()}
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    reason = "invalid configuration" if isinstance(error, SystemExit) else str(error).partition("\n")[0]
    reason = hide_credentials_in_text(reason, *sys.argv)
    return {"status": status, "ended_at_ms": _now_ms(), "reason": reason}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
