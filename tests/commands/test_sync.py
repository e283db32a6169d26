from pathlib import Path

import pytest

from harness import cli


def test_folders_that_are_neither_runs_nor_sweeps_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent, outputs = tmp_path / "absent", tmp_path / "outputs"
    assert cli.main(["sync", str(absent), str(tmp_path), "--output-dir", str(outputs)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"RUN: {str(absent)!r} is not a file, a folder, or a run in {outputs}, which has no runs yet",
        f"{tmp_path}: neither a run (no metrics.jsonl) nor a sweep (no sweep.json)",
    ]
    assert not list(tmp_path.iterdir())
