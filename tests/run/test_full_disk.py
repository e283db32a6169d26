"""A run on a full disk is interrupted, leaves nothing half-written and resumes to the same result."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config.compose import compose_config
from harness.core.checkpoint_names import list_saved_steps
from harness.core.shortage import ShortageError
from harness.record.entry_writer import EntryWriter
from harness.run import run_dir
from harness.run.runner import run
from harness.training import checkpoint
from tests.conftest import ROOT, run_main
from tests.run.test_run import SMOKE, find_only_run, read_record, read_series
from tests.tracking.stores import free_port

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
    assert not (folder / "traceback.txt").exists()
    again = run(compose_config([*SHORT, *places, "name=again", "start=resume", f"start.run={folder}"]))
    assert again.status == "completed"
    assert read_series(again.folder, "val/loss") == read_series(straight.folder, "val/loss")[-2:]
    assert again.best_val_loss == straight.best_val_loss


def test_full_disk_at_the_start_leaves_no_folder(places, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(run_dir, "shutil", SimpleNamespace(copytree=failing_after(0, shutil.copytree)))
    assert run_main(monkeypatch, *SHORT, *places) == 1
    assert "interrupted: " in capsys.readouterr().err
    assert not list((tmp_path / "outputs").glob("*"))


def test_files_that_others_put_into_the_folder_stay(places, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.md").write_text("kept")
    monkeypatch.setattr(run_dir, "shutil", SimpleNamespace(copytree=failing_after(0, shutil.copytree)))
    with pytest.raises(OSError, match="shortage"):
        run(compose_config([*SHORT, *places]), folder=folder)
    assert [path.read_text() for path in folder.iterdir()] == ["kept"]
    monkeypatch.undo()
    monkeypatch.setattr(EntryWriter, "_write", failing_after(0, EntryWriter._write))
    with pytest.raises(ShortageError, match="no space left on"):  # the first line does not fit
        run(compose_config([*SHORT, *places]), folder=folder)
    assert [path.read_text() for path in folder.iterdir()] == ["kept"]


def test_no_checkpoint_is_saved_before_its_record(places, tmp_path, monkeypatch) -> None:
    """Otherwise a run that resumes from it would lack the lines that the full disk rejected."""
    straight = run(compose_config([*SHORT, *places, "name=straight"]))
    with monkeypatch.context() as patch:
        patch.setattr(EntryWriter, "_write", failing_after(13, EntryWriter._write))
        with pytest.raises(ShortageError, match="no space left on"):
            run(compose_config([*SHORT, *places, "name=full"]))
    [folder] = (tmp_path / "outputs").glob("*_full")
    again = run(compose_config([*SHORT, *places, "name=again", "start=resume", f"start.run={folder}"]))
    first = again.effective.first_step
    assert 0 < first < 12
    for name in ("train/loss", "val/loss"):
        kept = {step: loss for step, loss in read_losses(folder, name).items() if step <= first}
        assert kept | read_losses(again.folder, name) == read_losses(straight.folder, name)


def read_losses(folder: Path, name: str) -> dict[int, float]:
    return {line["step"]: line["metrics"][name] for line in read_record(folder) if name in line.get("metrics", {})}


@pytest.mark.slow
def test_run_with_too_few_open_files_resumes_to_the_same_losses(places, tmp_path) -> None:
    """The limits from too low to begin to just enough; with some of them the first checkpoint is half-written."""
    straight = run(compose_config([*SHORT, *places, "name=straight"]))
    statuses, resumed = [], []
    for limit in range(5, 14):
        command = [sys.executable, "run.py", *SHORT, *places, f"name=limit{limit}"]
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),  # noqa: B023
        )
        statuses.append(done.returncode)
        for folder in (tmp_path / "outputs").glob(f"*_limit{limit}"):
            assert not [path for path in folder.rglob("*") if path.suffix in (".tmp", ".removed")]
            if done.returncode and list_saved_steps(folder / "checkpoints"):
                start = ["start=resume", f"start.run={folder}"]
                again = run(compose_config([*SHORT, *places, f"name=again{limit}", *start]))
                assert again.best_val_loss == straight.best_val_loss
                resumed.append(limit)
        if done.returncode:
            assert "interrupted: " in done.stderr
            assert "too many open files; raise the limit with ulimit -n" in done.stderr
            assert "Traceback" not in done.stderr
    assert set(statuses) == {0, 1}
    print(f"\n{statuses.count(1)} runs with too few open files, {len(resumed)} of them resumed from a checkpoint")


@pytest.mark.slow
def test_full_disk_of_one_process_ends_all(places, tmp_path) -> None:
    """Only rank 0 writes checkpoints; the other would wait for it for hours."""
    command = [sys.executable, "run.py", *SHORT, *places]
    group = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    run(compose_config([*SHORT, *places]))  # fills the cache
    limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000));"
    limited = [sys.executable, "-c", f"{limit} runpy.run_path('run.py', run_name='__main__')", *command[2:]]
    commands = {"0": limited, "1": command}
    ranks = [
        subprocess.Popen(commands[rank], cwd=ROOT, env={**group, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    try:
        assert [rank.wait(90) for rank in ranks] == [1, 1]
    finally:
        for rank in ranks:
            rank.kill()
    assert not list((tmp_path / "outputs").glob("*/traceback.txt"))


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
