"""What several tests share: a place of their own for everything a run writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands import run

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole sweeps first: with `-n 2 --dist worksteal` no process then waits for the other's last one."""
    items.sort(key=lambda item: item.path.stem not in ("test_sweeper", "test_launchers"))


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenised data and bases, paid for once a session, whatever the number of its processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def places(tmp_path: Path, cache_dir: Path) -> list[str]:
    """Overrides that keep a run inside the test's folder."""
    return [f"output_dir={tmp_path}/outputs", f"cache_dir={cache_dir}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]


@pytest.fixture
def places_without_bases(places: list[str], tmp_path: Path, cache_dir: Path) -> list[str]:
    """The same with all tokenised data and no base."""
    for name in ("data", "tokenizers"):
        (cache_dir / name).mkdir(exist_ok=True)
        (tmp_path / "cache").mkdir(exist_ok=True)
        (tmp_path / "cache" / name).symlink_to(cache_dir / name)
    return [*places, f"cache_dir={tmp_path}/cache"]


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of `python run.py ARGUMENTS`, without the seconds that a process of its own takes to start."""
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    try:
        return run.main(arguments)
    except SystemExit as ended:
        return ended.code


def run_script(
    *overrides: str, env: dict[str, str] | None = None, timeout: int = 120
) -> subprocess.CompletedProcess[str]:
    """`python run.py` as a user's shell would start it."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *overrides],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
