"""A small run that has ended, and the range test of its experiment, made once for all that look at them."""

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from harness import cli
from harness.config.compose import compose_config
from harness.run.runner import run
from tests.run.test_run import SMOKE

CHOSEN = [*SMOKE, "loop.max_steps=12", "loop.evals=3", "expect=['step 4: val/loss < 1', 'epoch 1: val/loss < 9']"]


@pytest.fixture(scope="session")
def overrides(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> list[str]:
    folder = tmp_path_factory.mktemp("finished")
    places = [f"output_dir={folder}/outputs", f"cache_dir={cache_dir}", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    return [*CHOSEN, *places]


@pytest.fixture(scope="session")
def finished(overrides: list[str]) -> Path:
    """The folder of the run."""
    return run(compose_config([*overrides, "observers=metrics_only", "optimizer.lr=2e-3", "seed=5"])).folder


@dataclass(frozen=True)
class RangeTest:
    """What `lr-range` printed, and the folder of its kind."""

    output: str
    folder: Path


@pytest.fixture(scope="session")
def tested(overrides: list[str]) -> RangeTest:
    said = StringIO()
    with redirect_stdout(said):
        assert cli.main(["lr-range", *overrides, "--steps", "40", "--low", "1e-5", "optimizer.lr=0.5"]) == 0
    [output_dir] = [one.removeprefix("output_dir=") for one in overrides if one.startswith("output_dir=")]
    return RangeTest(said.getvalue(), Path(output_dir) / "lr_range")
