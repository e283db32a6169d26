"""The disk space of a sweep is estimated before it starts."""

import subprocess
from dataclasses import replace

import pytest

from harness.core.shortage import ShortageError
from harness.run.runner import run
from harness.sweep.programs.training import disk_space
from harness.sweep.programs.training.disk_space import check_disk_space, estimate_disk_use
from harness.sweep.programs.training.validation import check_search_space
from tests.conftest import run_main
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA, read_tiny_request

SWEEP = [*TINY_WITHOUT_LORA, "sweep.n_trials=5", "sweep.n_jobs=2", "sweep.keep=2"]


def test_estimate_covers_what_a_run_leaves(places) -> None:
    request = read_tiny_request(*SWEEP, *places)
    checkpoint_bytes = check_search_space(request.space, ()).checkpoint_bytes
    result = run(request.cfg.copy())
    largest = max(
        sum(file.stat().st_size for file in folder.iterdir())
        for folder in (result.folder / "checkpoints").glob("step-*")
    )
    assert 0.7 * largest < checkpoint_bytes < 1.3 * largest
    used = int(subprocess.run(["du", "-sb", result.folder], capture_output=True, text=True).stdout.split()[0])
    alone = replace(request, workers=replace(request.workers, n_jobs=1), budget=replace(request.budget, n_trials=1))
    assert used < estimate_disk_use(alone, checkpoint_bytes).highest


def test_sweep_that_does_not_fit_is_refused(places, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 1000)
    assert run_main(monkeypatch, "-m", *SWEEP, *places) == 1
    message = capsys.readouterr().err
    assert "the checkpoints of 2 running trials take at least" in message
    assert "1 kB are free; make room" in message
    assert not (tmp_path / "outputs").exists()


def test_line_says_what_to_lower(places, monkeypatch) -> None:
    request = read_tiny_request(*SWEEP, *places)
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 10_000_000)
    line = check_disk_space(request, 1_000_000)
    assert line.startswith("disk space: at most 23.2 MB of 10 MB free in ")
    assert line.endswith("lower sweep.keep or loop.keep_checkpoints, or make room")
    with pytest.raises(ShortageError, match="take at least 12 MB"):
        check_disk_space(request, 9_000_000)


def test_checkpoints_of_paused_trials_are_limited(places, monkeypatch) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 10_000_000_000)
    plain, pausing = (read_tiny_request(*SWEEP, *places, f"pruner={one}") for one in ("none", "pausing"))
    before = estimate_disk_use(plain, 1_000_000).highest
    assert estimate_disk_use(pausing, 1_000_000).highest > before
    assert estimate_disk_use(pausing, 1_000_000, free=4_000_000).highest == before + 2_000_000
    limited = read_tiny_request(*SWEEP, *places, "pruner=pausing", "sweep.max_disk=1MB")
    assert estimate_disk_use(limited, 1_000_000, free=4_000_000).highest == before + 1_000_000
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 13_000_000)
    assert check_disk_space(limited, 1_000_000).endswith(
        "lower sweep.max_disk, sweep.keep or loop.keep_checkpoints, or make room"
    )
