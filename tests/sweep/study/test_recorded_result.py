"""Results of trials whose worker died before it could tell the study."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.record.metrics_file import TRIAL_FILE
from harness.record.trial_record import RecordedCheckpoint, TrialEnd, TrialRecord
from harness.sweep.study.recorded_result import read_interrupted_result, read_recorded_result
from tests.conftest import ROOT
from tests.record.trials import make_start, write_trial


def test_result_of_another_program_is_read_from_its_end(tmp_path: Path) -> None:
    result = read_recorded_result(write_trial(tmp_path / "3"), ["val/acc"])
    assert result is not None
    assert (result.status, result.values, result.seconds, result.folder) == ("completed", (0.8,), 1.5, "3")
    assert (result.fraction_done, result.best_step, result.tokens) == (1.0, None, 0)


@pytest.mark.parametrize("status", [None, "failed", "pruned", "diverged", "interrupted"])
def test_other_trials_of_another_program_have_none(status, tmp_path: Path) -> None:
    folder = write_trial(tmp_path / "3", status=status)
    (folder / "checkpoints").mkdir()  # the program's own
    recorded = (folder / TRIAL_FILE).read_bytes()
    assert read_recorded_result(folder, ["val/acc"]) is None
    assert (folder / TRIAL_FILE).read_bytes() == recorded


def test_trial_that_died_before_its_record_is_judged_without_loading_torch(tmp_path: Path) -> None:
    """Sweeps of other programs are installed without it."""
    code = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path\n"
        "from harness.sweep.study.recorded_result import read_recorded_result\n"
        "print(read_recorded_result(Path(sys.argv[1]), ['val/acc']), read_recorded_result(Path(sys.argv[2]), ['a']))"
    )
    command = [sys.executable, "-c", code, tmp_path, write_trial(tmp_path / "3", status=None)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "None None\n", done.stderr


def test_objective_that_was_not_recorded(tmp_path: Path) -> None:
    assert read_recorded_result(write_trial(tmp_path / "3"), ["val/f1"]) is None


@pytest.mark.parametrize("status", [None, "paused", "interrupted"])
def test_a_trial_that_reported_a_checkpoint_can_be_continued_from_it(status, tmp_path: Path) -> None:
    folder = tmp_path / "3"
    assert read_interrupted_result(folder) is None
    record = TrialRecord(folder, make_start())
    record.add_metrics(10, {"val/acc": 0.5}, total_steps=40)
    assert read_interrupted_result(folder) is None
    record.add_checkpoint(RecordedCheckpoint("/out/10.pt", "1 2"))
    record.add_metrics(20, {"val/acc": 0.6})
    if status:
        record.end(TrialEnd(status, seconds=4.0))
    record.close()
    result = read_interrupted_result(folder)
    assert result is not None
    assert (result.status, result.checkpoint, result.fraction_done) == ("interrupted", "/out/10.pt", 0.5)
    assert result.seconds == 4.0 or status is None
