"""Ctrl-C and SIGTERM at any moment: the status of the signal, one message, no traceback, nothing half-written."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.sweep.tiny_sweeps import TINY, TINY_WITHOUT_LORA

# Python's own start, before the first line of ours.
PYTHON_START_S = 0.15
LONG = ["loop.max_steps=1000000", "observers=metrics_only"]
COMMANDS = {
    "run": ["run.py", *TINY, "lora=none", *LONG],
    "base model": ["run.py", *TINY[1:], "lora=none", "start.source='experiment=smoke'", *LONG],
    "sweep": ["run.py", "-m", *TINY_WITHOUT_LORA, "loop.max_steps=1000000", "sweep.n_trials=2", "sweep.n_jobs=1"],
    "preflight": ["-m", "harness", "preflight", *TINY, "lora=none"],
}


def signal_command(arguments: Sequence[str], number: int, seconds: float) -> tuple[int, str]:
    """Start a command, signal it after some seconds, and return its exit status and output."""
    command = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )
    time.sleep(seconds)
    if command.poll() is None:
        os.killpg(command.pid, number)  # a terminal signals the whole group
    output, _ = command.communicate(timeout=60)
    return command.returncode, output


def check_interrupted(folder: Path, number: int, status: int, output: str, may_complete: bool = False) -> None:
    assert status == 128 + number or (may_complete and status == 0), output
    assert "Traceback" not in output
    assert "Exception ignored" not in output
    for config in folder.glob("**/config.yaml"):
        lines = (config.parent / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["status"] == "interrupted"
    assert not list(folder.glob("**/*.tmp"))


def test_ctrl_c_during_imports(tmp_path: Path) -> None:
    status, output = signal_command(["run.py", f"output_dir={tmp_path}/outputs"], signal.SIGINT, 2 * PYTHON_START_S)
    assert output == "interrupted\n"
    check_interrupted(tmp_path, signal.SIGINT, status, output)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("command", "count", "seconds"), [("run", 40, 6), ("base model", 10, 8), ("sweep", 15, 12), ("preflight", 10, 8)]
)
def test_signals_at_random_moments(
    command: str, count: int, seconds: float, number: int, tmp_path: Path, cache_dir: Path
) -> None:
    chosen = random.Random(number)
    for trial in range(count):
        folder = tmp_path / str(trial)
        cache = folder / "cache" if command == "base model" else cache_dir
        places = [f"output_dir={folder}/outputs", f"cache_dir={cache}", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        outcome = signal_command([*COMMANDS[command], *places], number, chosen.uniform(PYTHON_START_S, seconds))
        check_interrupted(folder, number, *outcome, may_complete=command == "preflight")
