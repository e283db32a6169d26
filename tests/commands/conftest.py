"""A small run that has ended, and the range test of its experiment, made once for all that look at them."""

from pathlib import Path

import pytest

from harness import cli
from harness.config import compose
from harness.runner import run
from tests.test_run import SMOKE

CHOSEN = [*SMOKE, "loop.max_steps=12", "loop.evals=3", "expect=['step 4: val/loss < 1', 'epoch 1: val/loss < 9']"]


@pytest.fixture(scope="session")
def overrides(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> list[str]:
    folder = tmp_path_factory.mktemp("finished")
    places = [f"output_dir={folder}/outputs", f"cache_dir={cache_dir}", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    return [*CHOSEN, *places]


@pytest.fixture(scope="session")
def finished(overrides: list[str]) -> Path:
    """The folder of the run."""
    return run(compose([*overrides, "observers=quiet", "optimizer.lr=2e-3", "seed=5"])).folder


@pytest.fixture(scope="session")
def tested(overrides: list[str]) -> Path:
    """The folder of range tests, with one."""
    assert cli.main(["lr-range", "--steps", "40", "--low", "1e-5", *overrides]) == 0
    [output_dir] = [one.removeprefix("output_dir=") for one in overrides if one.startswith("output_dir=")]
    return Path(output_dir) / "lr_range"
