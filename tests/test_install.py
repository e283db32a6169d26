"""The built package, installed into empty environments and used from a folder that is not a checkout.

The tests install packages and need the network, as `make test` does.
"""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.core.files import FileLock
from harness.observers.metrics_writer import MetricsWriter
from tests.conftest import ROOT
from tests.observers.sample_events import sample_run, send_events

LOG = "\n".join(f"step {step}: loss {4 - step / 500:.4f}, lr 0.001" for step in range(0, 500, 10))


@pytest.fixture(scope="session")
def shared(cache_dir: Path) -> Path:
    """Return a folder that all test processes of a session share."""
    return cache_dir.parent


@pytest.fixture(scope="session")
def wheel(shared: Path) -> Path:
    folder = shared / "wheel"
    with FileLock(shared / "wheel.lock"):
        if not folder.exists():
            command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
            subprocess.run([sys.executable, *command], check=True)
    [file] = folder.glob("plateau_harness-*.whl")
    return file


def install(wheel: Path, folder: Path, extra: str = "") -> Path:
    """Install the wheel into a new environment; return the environment's folder of commands."""
    venv.create(folder, with_pip=True)
    command = ["-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), f"{wheel}{extra}"]
    subprocess.run([folder / "bin" / "python", *command], check=True)
    return folder / "bin"


def run_plateau(
    commands: Path, cwd: Path, arguments: Sequence[str], timeout: int = 120
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [commands / "plateau", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="session")
def bare(wheel: Path, shared: Path) -> Path:
    """Return the commands of an environment with the package and no extras."""
    folder = shared / "bare"
    with FileLock(shared / "bare.lock"):
        return folder / "bin" if folder.exists() else install(wheel, folder)


def test_bare_package_diagnoses_a_log(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(LOG)
    found = run_plateau(bare, tmp_path, ["diagnose", "train.log"])
    assert found.returncode == 0, found.stderr
    assert "50 of train/loss" in found.stdout
    packages = {path.name for path in (bare.parent / "lib").glob("python*/site-packages/*")}
    assert not packages & {"torch", "transformers", "mlflow", "peft", "hydra", "optuna"}


def test_bare_package_diagnoses_checkpoints_and_runs(bare: Path, tmp_path: Path) -> None:
    """The LR schedule of a checkpoint needs torch, checking overrides needs Hydra; the curves need neither."""
    checkpoint = tmp_path / "checkpoint-50"
    checkpoint.mkdir()
    rows = [{"step": step, "loss": 4 - step / 500} for step in range(0, 50, 5)]
    (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": rows}))
    (checkpoint / "scheduler.pt").write_bytes(b"not read")
    found = run_plateau(bare, tmp_path, ["diagnose", "checkpoint-50"])
    assert found.returncode == 0, found.stderr
    assert "10 of train/loss" in found.stdout
    send_events([MetricsWriter()], sample_run(tmp_path / "run"))
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    found = run_plateau(bare, tmp_path, ["diagnose", "run"])
    assert found.returncode == 0, found.stderr
    assert "4 of train/loss" in found.stdout


def test_bare_package_shows_its_version_and_the_extra_that_a_run_needs(bare: Path, tmp_path: Path) -> None:
    version = run_plateau(bare, tmp_path, ["--version"])
    assert version.stdout.split() == ["plateau", "0.1.0"]
    refused = run_plateau(bare, tmp_path, ["run", "experiment=smoke"])
    assert refused.returncode == 2
    assert "pip install 'plateau-harness[train]'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.install
def test_extra_sweep_trains_and_sweeps_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    commands = install(wheel, tmp_path / "environment", "[sweep]")
    check_runs(commands, tmp_path)
    swept = run_plateau(
        commands,
        tmp_path,
        ["run", "-m", "experiment=smoke", "sweeps=none", "seed=1,2", "sweep.n_trials=2", "preflight=skip"],
        300,
    )
    assert swept.returncode == 0, swept.stderr
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/metrics.jsonl"))) == 2


def check_runs(commands: Path, tmp_path: Path) -> None:
    """Train, with a configuration folder of the user's, and check where the results are."""
    (tmp_path / "my_conf" / "optimizer").mkdir(parents=True)
    (tmp_path / "my_conf" / "optimizer" / "careful.yaml").write_text(
        "_target_: torch.optim.AdamW\n_partial_: true\nlr: 1e-4\n"
    )
    overrides = ["experiment=smoke", "start=scratch", "lora=none", "device=cpu", "loop.max_steps=2", "loop.evals=1"]
    own = ["--config-dir", "my_conf", "optimizer=careful"]
    trained = run_plateau(commands, tmp_path, ["run", *overrides, *own], 300)
    assert trained.returncode == 0, trained.stderr
    [record] = tmp_path.glob("outputs/*_smoke/metrics.jsonl")
    assert (tmp_path / "mlflow.db").is_file()
    checked = run_plateau(commands, tmp_path, ["preflight", *overrides, *own, "--only", "cost"], 300)
    assert checked.returncode == 0, checked.stderr
    diagnosed = run_plateau(commands, tmp_path, ["diagnose", record.parent.name])
    assert diagnosed.returncode == 0, diagnosed.stderr
