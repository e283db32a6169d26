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


def test_bare_package_shows_its_version_and_the_extra_that_a_command_needs(bare: Path, tmp_path: Path) -> None:
    version = run_plateau(bare, tmp_path, ["--version"])
    assert version.stdout.split() == ["plateau", "0.1.0"]
    sweep = ["sweep", "--", "python", "train.py", "--lr", "1,2"]
    for arguments, extra in {
        ("run", "experiment=smoke"): "train",
        (*sweep,): "programs",
        ("list",): "programs",
    }.items():
        refused = run_plateau(bare, tmp_path, arguments)
        assert refused.returncode == 2
        assert f"pip install 'plateau-harness[{extra}]'" in refused.stderr
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


SCRIPT = """
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
lr = parser.parse_args().lr
for step in range(1, 11):
    print(f"step {step}/10 | val_loss: {(lr - 0.01) ** 2 + 1 / step:.6f}")
"""
APP = """
import hydra
from harness.sweep import report


@hydra.main(config_path="conf", config_name="config")
def main(cfg):
    for epoch in range(1, 4):
        report((cfg.lr - 0.01) ** 2 + 1 / epoch, step=epoch, total_steps=3)
    return (cfg.lr - 0.01) ** 2


if __name__ == "__main__":
    main()
"""


@pytest.mark.install
def test_extra_programs_sweeps_a_script_and_a_hydra_app_without_torch(wheel: Path, tmp_path: Path) -> None:
    commands = install(wheel, tmp_path / "environment", "[programs]")
    packages = {path.name for path in (commands.parent / "lib").glob("python*/site-packages/*")}
    assert not packages & {"torch", "transformers", "tokenizers", "peft", "datasets", "safetensors", "accelerate"}
    check_script_sweep(commands, tmp_path)
    check_app_sweep(commands, tmp_path)


def check_script_sweep(commands: Path, tmp_path: Path) -> None:
    """Sweep a script with two workers, resume the sweep, and read its study with every command."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    command = ["--n-jobs", "2", "--", str(commands / "python"), "train.py", "--lr", "log(1e-4,1e-1)"]
    dry = run_plateau(commands, folder, ["sweep", "--dry-run", *command])
    assert dry.returncode == 0, dry.stderr
    swept = run_plateau(commands, folder, ["sweep", "--n-trials", "2", *command])
    assert swept.returncode == 0, swept.stderr
    resumed = run_plateau(commands, folder, ["sweep", "--n-trials", "4", "--json", *command])
    assert [trial["status"] for trial in json.loads(resumed.stdout)["trials"]] == ["completed"] * 4
    check_study(commands, folder, "train")


def check_app_sweep(commands: Path, tmp_path: Path) -> None:
    """Sweep a Hydra app with two workers, and in one process."""
    folder = tmp_path / "app"
    (folder / "conf").mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "conf" / "config.yaml").write_text("lr: 0.1\n")
    arguments = ["-m", "hydra/sweeper=harness", "lr=log(1e-4,1e-1)", "hydra.sweeper.n_trials=3"]
    run_python(commands, folder, "app.py", *arguments, "hydra.sweeper.n_jobs=2")
    check_study(commands, folder, "app")
    here = f"import sys; sys.path.insert(0, ''); sys.argv = {['app.py', *arguments, 'hydra.sweeper.study_name=here']}"
    run_python(commands, folder, "-c", f"{here}; exec(open('app.py').read())")
    assert len([*folder.glob("multirun/here/*/trial_record.jsonl")]) == 3


def run_python(commands: Path, folder: Path, *arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [commands / "python", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def check_study(commands: Path, folder: Path, study: str) -> None:
    """Check that MLflow has the study, and that commands take it."""
    for arguments in (["list"], ["diagnose", f"{study}/best"], ["compare", f"{study}/0", f"{study}/1"]):
        read = run_plateau(commands, folder, arguments)
        assert (read.returncode, "Traceback" in read.stderr) == (0, False), read.stderr
        assert study in read.stdout
    synced = run_plateau(commands, folder, ["sync", study])
    assert "nothing to upload" in synced.stdout, synced.stderr


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
