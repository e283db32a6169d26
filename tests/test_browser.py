"""The MLflow UI in a real browser shows the run that was recorded."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.config.compose import compose_config
from harness.run.runner import run
from tests.conftest import ROOT
from tests.run.test_run import SMOKE
from tests.tracking.stores import new_store

CHROMIUM = shutil.which("chromium")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
def test_the_ui_shows_the_run(places: list[str], tmp_path: Path) -> None:
    store = new_store(tmp_path)
    result = run(compose_config([*SMOKE, *places, "loop.max_steps=3"]))
    command = [sys.executable, "-m", "harness", "ui", "--uri", store, "--port", "5870"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
            page = f"{address}/#/experiments/1/runs"
            browse = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=30000"]
            shown = subprocess.run([*browse, "--dump-dom", page], capture_output=True, text=True, timeout=90)
        finally:
            server.terminate()
    assert result.folder.name in shown.stdout
    assert "PydocQA" in shown.stdout
