"""What several tests share: a place of their own for everything a run writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenised data and bases, paid for once a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def places(tmp_path: Path, cache_dir: Path) -> list[str]:
    """Overrides that keep a run inside the test's folder."""
    return [f"output_dir={tmp_path}/outputs", f"cache_dir={cache_dir}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]


def run_py(*overrides: str, env: dict[str, str] | None = None, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """`python run.py` as a user's shell would start it."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *overrides],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
