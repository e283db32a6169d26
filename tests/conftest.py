"""Fixtures and helpers shared by all tests: folders for everything that a run writes, and ways to start run.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands import run
from harness.core import signals
from tests.attack_target import AttackTarget, create_attack_target

ROOT = Path(__file__).parents[1]
ANNOUNCEMENTS = ("loading ", "tokenizing ", "fitting ", "solving ", "training the base ", "waiting for the upload")
"""First words of the messages about something that takes a while."""
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run whole sweeps first, so that with `-n 2 --dist worksteal` no process waits for a long last test."""
    items.sort(key=lambda item: item.path.stem not in ("test_sweeper", "test_launchers"))


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of tokenized data and base models that all processes of the session share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def isolated_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exit status of a command depend on the signals of this test only, and no output on the terminal."""
    monkeypatch.setattr(signals, "_received", [])
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it


@pytest.fixture
def places(tmp_path: Path, cache_dir: Path) -> list[str]:
    """Return overrides that keep a run inside the test's folder."""
    return [f"output_dir={tmp_path}/outputs", f"cache_dir={cache_dir}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]


@pytest.fixture
def places_without_bases(places: list[str], tmp_path: Path, cache_dir: Path) -> list[str]:
    """Return the same overrides with cached data but no base models."""
    for name in ("data", "tokenizers"):
        (cache_dir / name).mkdir(exist_ok=True)
        (tmp_path / "cache").mkdir(exist_ok=True)
        (tmp_path / "cache" / name).symlink_to(cache_dir / name)
    return [*places, f"cache_dir={tmp_path}/cache"]


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AttackTarget:
    """Return something to attack in the test's folder."""
    return create_attack_target(tmp_path / "target", monkeypatch)


def drop_announcements(text: str) -> str:
    """Return what a command wrote on standard error, without the lines about what takes a while."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(ANNOUNCEMENTS))


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Return the exit status of `python run.py ARGUMENTS`, run in this process to save the start-up time."""
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    try:
        return run.main(arguments)
    except SystemExit as ended:
        return ended.code


def run_script(
    *overrides: str, env: dict[str, str] | None = None, timeout: int = 120
) -> subprocess.CompletedProcess[str]:
    """Run `python run.py` in a new process."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *overrides],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
