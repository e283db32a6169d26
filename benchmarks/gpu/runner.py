"""Run the parts one after the other, each in its own process with a time limit, and write what they found."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch

from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.setup import FORMULA
from benchmarks.gpu.worker import Request, error_file, rows_file
from harness.record.metrics_file import write_json
from harness.run.provenance import describe_environment

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "accelerate", "neuraloperator", "numpy", "triton")
PUBLIC_KEYS = ("platform", "python", "git.commit", "git.is_dirty")  # without names of hosts and users
DONE, FAILED, TIME_IS_UP, NOT_STARTED, SKIPPED = "done", "failed", "time is up", "not started: time is up", "skipped"


def describe_measurement(request: Request, command: Sequence[str]) -> dict[str, Any]:
    environment = describe_environment(ROOT)
    versions = {"cuda": torch.version.cuda}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "command": shlex.join(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "is_toy": request.is_toy,
        "devices visible": torch.cuda.device_count() if request.device == "cuda" else 1,
        "environment": {key: environment[key] for key in PUBLIC_KEYS if key in environment},
        "versions": versions,
        "formula": FORMULA,
        "parts": {},
    }


def run_parts(
    names: Sequence[str], request: Request, to: Path, seconds: float, command: Sequence[str]
) -> dict[str, Any]:
    """Run the parts, all within `seconds`; return everything that was found, and write it after each part."""
    report = describe_measurement(request, command)
    to.parent.mkdir(parents=True, exist_ok=True)
    ends_at = time.monotonic() + seconds
    with TemporaryDirectory() as name:
        for part_name in names:
            part, folder = PARTS[part_name], Path(name, part_name)
            folder.mkdir()
            left = ends_at - time.monotonic()
            if left <= 0:
                result: dict[str, Any] = {"status": NOT_STARTED, "rows": []}
            elif reason := why_skipped(part, request):
                result = {"status": SKIPPED, "reason": reason, "rows": []}
            else:
                own = replace(request, function=part.function, folder=str(folder))
                result = run_part(part, own, min(part.limit_seconds, left))
            report["parts"][part_name] = result
            write_json(to, report)
            print(describe_end(part_name, result), flush=True)
    return report


def why_skipped(part: Part, request: Request) -> str:
    """Return why a part cannot run; empty if it can."""
    if part.is_distributed and request.device == "cuda" and torch.cuda.device_count() < 2:
        return f"needs 2 or more GPUs; {torch.cuda.device_count()} visible"
    return ""


def run_part(part: Part, request: Request, limit_seconds: float) -> dict[str, Any]:
    """Run a part in its own process and return its rows, and how it ended."""
    folder, started_at = Path(request.folder), time.monotonic()
    launcher, environment = [sys.executable], {**os.environ, "PYTHONPATH": str(ROOT)}
    if part.is_distributed:
        n_processes = torch.cuda.device_count() if request.device == "cuda" else 2
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    elif request.device == "cuda":  # transformers.Trainer would use all
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    log_file = folder / "log.txt"
    with log_file.open("w") as log:
        process = psutil.Popen(
            [*launcher, "-m", "benchmarks.gpu.worker", str(request.write())],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            status = DONE if process.wait(limit_seconds) == 0 else FAILED
        except psutil.TimeoutExpired:
            status = TIME_IS_UP
        finally:
            kill_tree(process)
    found = json.loads(rows_file(folder).read_text()) if rows_file(folder).exists() else {"rows": []}
    result = {"status": status, "seconds": time.monotonic() - started_at, "limit_seconds": limit_seconds, **found}
    if status == FAILED:
        result["reason"] = read_error(folder, log_file, process.returncode)
    return result


def kill_tree(process: psutil.Popen) -> None:
    """Kill a process and all below it, so that nothing holds memory of the device when the next part starts."""
    with suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


def read_error(folder: Path, log_file: Path, exit_status: int) -> str:
    """Return the error of a process, or the last line of its output if it died without one."""
    if error_file(folder).exists():
        return error_file(folder).read_text()
    lines = [line.strip() for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit status {exit_status}: {lines[-1] if lines else 'no output'}"


def describe_end(name: str, result: Mapping[str, Any]) -> str:
    """Return a line that says how a part ended."""
    seconds = f" in {result['seconds']:.0f} s" if "seconds" in result else ""
    if result["status"] == TIME_IS_UP:
        seconds = f" after {result['limit_seconds']:.0f} s"
    reason = f": {result['reason']}" if "reason" in result else ""
    return f"{PARTS[name].title} ({name}): {result['status']}{seconds}{reason}"


def format_table(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table of a part; none without rows."""
    columns = list(dict.fromkeys(key for row in result["rows"] for key in row))
    if not columns:
        return
    cells = [columns, *([format_figure(row[key]) if key in row else "" for key in columns] for row in result["rows"])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        first, *rest = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(["", first.strip().ljust(widths[0]), *rest]).rstrip()


def format_figure(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
