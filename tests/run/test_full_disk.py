"""A run on a full disk is interrupted, leaves nothing half-written and resumes to the same result."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config.compose import compose_config
from harness.core.shortage import ShortageError
from harness.run import run_dir
from harness.run.runner import run
from harness.training import checkpoint
from tests.conftest import run_main
from tests.run.test_run import SMOKE, find_only_run, read_record, read_series

SHORT = [*SMOKE, "observers=metrics_only", "loop.max_steps=12", "loop.evals=4"]


def failing_after(n_calls: int, call: Callable[..., Any], number: int = errno.ENOSPC) -> Callable[..., Any]:
    """Return `call`, which raises OSError from its call `n_calls` on."""
    calls = []

    def limited(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) > n_calls:
            raise OSError(number, "shortage")
        return call(*args, **kwargs)

    return limited


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_run_is_interrupted_and_resumes_to_the_same_losses(number, places, tmp_path, monkeypatch) -> None:
    straight = run(compose_config([*SHORT, *places, "name=straight"]))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_weights", failing_after(3, checkpoint.save_weights, number))
        with pytest.raises(ShortageError, match="after step 9"):
            run(compose_config([*SHORT, *places, "name=full"]))
    [folder] = (tmp_path / "outputs").glob("*_full")
    end = read_record(folder)[-1]
    assert (end["kind"], end["status"]) == ("end", "interrupted")
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / "error.txt").exists()
    again = run(compose_config([*SHORT, *places, "name=again", "start=resume", f"start.run={folder}"]))
    assert again.status == "completed"
    assert read_series(again.folder, "val/loss") == read_series(straight.folder, "val/loss")[-2:]
    assert again.best_val_loss == straight.best_val_loss


def test_full_disk_at_the_start_leaves_no_folder(places, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(run_dir.shutil, "copytree", failing_after(0, shutil.copytree))
    assert run_main(monkeypatch, *SHORT, *places) == 1
    assert "interrupted: " in capsys.readouterr().err
    assert not list((tmp_path / "outputs").glob("*"))


def test_run_that_cannot_begin_its_record_leaves_no_folder(places, tmp_path, monkeypatch, capsys) -> None:
    opened = Path.open

    def open_unless_metrics(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "metrics.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_unless_metrics)
    assert run_main(monkeypatch, *SHORT, *places) == 1
    assert "no space left on" in capsys.readouterr().err
    assert not list((tmp_path / "outputs").glob("*"))


def test_message_names_the_remedy(places, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(checkpoint, "save_weights", failing_after(2, checkpoint.save_weights))
    assert run_main(monkeypatch, *SHORT, *places) == 1
    message = capsys.readouterr().err
    assert "no space left on" in message
    assert "start=resume start.run=RUN" in message
    assert "Traceback" not in message
    assert read_record(find_only_run(tmp_path))[-1]["status"] == "interrupted"
