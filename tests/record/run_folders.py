"""Folders of runs and studies as this program leaves them, made without training."""

from pathlib import Path
from typing import Any

from harness.core.events import Status
from harness.record.metrics_file import encode_entry, write_json
from harness.record.sweep_files import SUMMARY_FILE, SWEEP_FILE


def write_run(
    folder: Path,
    losses: list[float],
    status: Status | None = "completed",
    run_id: str | None = None,
    test_loss: float | None = None,
    **start: Any,
) -> Path:
    """Write the record of a run that was evaluated at each step; a run without a status has not ended."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: null\n")
    about = {"name": folder.name, "total_steps": 2 * len(losses), "params": {}, "overrides": ["experiment=smoke"]}
    entries: list[dict[str, Any]] = [{"kind": "start", "at_ms": 0, **about, **start}]
    for step, loss in enumerate(losses, 1):
        entries.append({"kind": "metrics", "at_ms": step, "step": step, "metrics": {"val/loss": loss}, "units": {}})
    if status is not None:
        entries.append({"kind": "end", "at_ms": 99, "status": status, "reason": "", "step": len(losses),
                        "best_val_loss": min(losses, default=float("inf")), "test_loss": test_loss})  # fmt: skip
    (folder / "metrics.jsonl").write_bytes(b"".join(map(encode_entry, entries)))
    if run_id:
        write_json(folder / "mlflow.json", {"run_id": run_id})
    return folder


def write_study(folder: Path, status: str = "completed", **summary: Any) -> Path:
    """Write the description and the summary of a sweep."""
    folder.mkdir(parents=True)
    write_json(folder / SWEEP_FILE, {"id": "x"})
    write_json(folder / SUMMARY_FILE, {"status": status, "metrics": {}, "tags": {}, "history": [], **summary})
    return folder
