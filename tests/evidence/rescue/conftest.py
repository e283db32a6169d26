"""A small finished run, and data with a fault."""

from pathlib import Path

import pytest

from harness.config.compose import compose_config
from harness.run.runner import run
from tests.commands.test_preflight import leaked_data  # noqa: F401
from tests.run.test_run import SMOKE


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """Return the folder of a completed run of 20 steps."""
    folder = tmp_path_factory.mktemp("finished")
    places = [f"output_dir={folder}/outputs", f"cache_dir={cache_dir}", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    overrides = [*SMOKE, *places, "loop.evals=3", "observers=metrics_only", "optimizer.lr=2e-3"]
    return run(compose_config(overrides), overrides=overrides).folder
