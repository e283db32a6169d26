"""Fill a real disk at random moments of runs and sweeps, make room, and resume: `-m slow`, needs the right to mount."""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from harness.sweep.study.trial_attrs import RESULT
from tests.conftest import run_script
from tests.sweep.test_sweeper import load_study
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA

DISK_KB = 6000
N_SHORTAGES = int(os.environ.get("N_SHORTAGES", "20"))
NOT_FOR_RUNS = ("hydra", "optimizer.lr", "loop.grad_clip")
RUN = [override for override in TINY_WITHOUT_LORA if not override.startswith(NOT_FOR_RUNS)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a file system of DISK_KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill_disk(disk: Path, free_kb: int) -> Path:
    """Write a file that leaves `free_kb` kilobytes free, and return it."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize // 1024
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, free - free_kb) * 1024))
    return filler


def check_interrupted(done: subprocess.CompletedProcess[str], disk: Path) -> None:
    """Check that `done` was interrupted, or refused to start, for want of space and left nothing half-written."""
    assert done.returncode == 1, done.stderr
    interrupted = "interrupted: " in done.stderr and "no space left on" in done.stderr
    assert interrupted or "are free; make room" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not [path for path in disk.rglob("*") if path.name.endswith((".tmp", ".partial", ".removed"))]


@pytest.mark.slow
def test_sweeps_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    chance, n_short, cycle = random.Random(0), 0, 0
    places = [f"cache_dir={tmp_path}/cache", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "loop.save_every=2"]
    sweep = ["-m", *TINY_WITHOUT_LORA, *places, "sweep.n_jobs=1", "hydra/sweeper/sampler=random", "sweep.n_trials=4"]
    assert run_script(*sweep, f"output_dir={tmp_path}/reference").returncode == 0
    expected = load_study(tmp_path / "reference" / "sweeps" / "default")
    while n_short < N_SHORTAGES:
        cycle += 1
        study = f"cycle{cycle}"
        command = [*sweep, f"output_dir={disk}/out", f"sweep.study={study}"]
        for _ in range(3):
            filler = fill_disk(disk, chance.randrange(40, 900))
            done = run_script(*command)
            filler.unlink()
            if done.returncode == 0:
                break
            check_interrupted(done, disk)
            n_short += 1
        done = run_script(*command)
        assert done.returncode == 0, done.stderr
        found = load_study(disk / "out" / "sweeps" / study)
        results = [trial.user_attrs[RESULT]["status"] for trial in found.trials]
        assert set(results) <= {"completed", "interrupted"}
        values = [t.value for t in found.trials if t.state == TrialState.COMPLETE]
        assert sorted(values) == sorted(t.value for t in expected.trials)
        subprocess.run(["rm", "-rf", disk / "out"], check=True)
    print(f"\n{n_short} shortages in {cycle} sweeps of 4 trials: none failed a trial or changed a value")


@pytest.mark.slow
def test_runs_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    chance, n_short, n_resumed = random.Random(1), 0, 0
    places = [f"cache_dir={tmp_path}/cache", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "loop.save_every=3"]
    run = [*RUN, *places, "loop.max_steps=24"]
    done = run_script(*run, f"output_dir={tmp_path}/reference")
    assert done.returncode == 0, done.stderr
    best = read_best(next((tmp_path / "reference").iterdir()))
    while n_short < N_SHORTAGES:
        filler = fill_disk(disk, chance.randrange(0, 1200))
        done = run_script(*run, f"output_dir={disk}/out")
        filler.unlink()
        if done.returncode:
            check_interrupted(done, disk)
            n_short += 1
            left = list((disk / "out").glob("*"))
            start = [f"start.run={left[0]}", "start=resume"] if left and any(left[0].glob("checkpoints/step-*")) else []
            n_resumed += bool(start)
            done = run_script(*run, f"output_dir={disk}/again", *start)
            assert done.returncode == 0, done.stderr
            assert read_best(next((disk / "again").iterdir())) == best
        subprocess.run(f"rm -rf {disk}/*", shell=True, check=True)
    print(f"\n{n_short} shortages, {n_resumed} resumed from a checkpoint, all with the best loss {best}")


def read_best(folder: Path) -> float:
    from tests.run.test_run import read_record

    return read_record(folder)[-1]["best_val_loss"]
