"""A small finished run and a range test of its experiment, shared by the tests of commands."""

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from harness import cli
from harness.config.compose import compose_config
from harness.run.runner import run
from tests.run.test_run import SMOKE

SHORT = [*SMOKE, "loop.max_steps=12", "loop.evals=3", "expect=['step 4: val/loss < 1', 'epoch 1: val/loss < 9']",
         "record_examples=true"]  # fmt: skip


@pytest.fixture(scope="session")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "outputs"


@pytest.fixture(scope="session")
def overrides(output_dir: Path, cache_dir: Path) -> list[str]:
    store = output_dir.parent / "mlflow.db"
    return [*SHORT, f"output_dir={output_dir}", f"cache_dir={cache_dir}", f"tracking.uri=sqlite:///{store}"]


@pytest.fixture(scope="session")
def finished(overrides: list[str]) -> Path:
    """Return the folder of a completed run."""
    return run(compose_config([*overrides, "observers=metrics_only", "optimizer.lr=2e-3", "seed=5"])).folder


@dataclass(frozen=True)
class RangeTest:
    """Printed output of `lr-range` and the folder of its results."""

    output: str
    folder: Path


@pytest.fixture(scope="session")
def range_test(overrides: list[str], output_dir: Path) -> RangeTest:
    printed = StringIO()
    with redirect_stdout(printed):
        assert cli.main(["lr-range", *overrides, "--steps", "40", "--low", "1e-5", "optimizer.lr=0.5"]) == 0
    [folder] = (output_dir / "lr_range").iterdir()
    return RangeTest(printed.getvalue(), folder)
