from pathlib import Path

import pytest

from harness import cli


def test_folders_that_are_neither_runs_nor_sweeps_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sync", str(tmp_path / "absent"), str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        f"{folder}: neither a run (no metrics.jsonl) nor a sweep (no sweep.json)"
        for folder in (tmp_path / "absent", tmp_path)
    ]
    assert not list(tmp_path.iterdir())
