"""Checkpoints of paused trials are kept within a limit, the worst go first."""

import os
from pathlib import Path

import optuna
import pytest

from harness.sweep.study.pausing import PausingPruner
from harness.sweep.workers.checkpoints import delete_paused_checkpoints
from tests.sweep.study.test_promotion import make_trial

SIZE = 1000  # bytes of a checkpoint


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """Return a study with trials paused at 4, 4, 12 and 4%, whose folders have a checkpoint."""
    study = optuna.create_study(pruner=PausingPruner())
    for number, values in enumerate([{4: 1.0}, {4: 3.0}, {4: 9.0, 12: 8.0}, {4: 2.0}]):
        study.add_trial(make_trial(values))
        folder = tmp_path / str(number) / "checkpoints"
        (folder / "step-1").mkdir(parents=True)
        (folder / "step-1" / "model").write_bytes(b"x" * SIZE)
        (folder / "best").mkdir()
        os.link(folder / "step-1" / "model", folder / "best" / "model")  # takes no space of its own
    return study


def list_kept(folder: Path) -> list[int]:
    return [number for number in range(4) if (folder / str(number) / "checkpoints").exists()]


@pytest.mark.parametrize(
    ("max_bytes", "kept"),
    [
        (4 * SIZE, [0, 1, 2, 3]),
        (4 * SIZE - 1, [0, 2, 3]),
        (2 * SIZE, [0, 2]),
        (SIZE, [2]),
        (1, []),
        (None, [0, 1, 2, 3]),
    ],
)
def test_the_worst_at_the_lowest_rung_go_first(
    max_bytes: int | None, kept: list[int], study: optuna.Study, tmp_path: Path
) -> None:
    delete_paused_checkpoints(study, tmp_path, max_bytes)
    assert list_kept(tmp_path) == kept


def test_without_pausing_nothing_is_deleted(study: optuna.Study, tmp_path: Path) -> None:
    study.pruner = optuna.pruners.NopPruner()
    delete_paused_checkpoints(study, tmp_path, 1)
    assert list_kept(tmp_path) == [0, 1, 2, 3]
