import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.core import files
from harness.core.files import (
    FileLock,
    find_intact_folder,
    is_locked,
    open_atomically,
    remove_folder,
    remove_leftovers,
    replace_folder,
    write_atomically,
    write_folder_atomically,
)


def test_write_atomically_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data, expected in (("ä", "ä".encode()), (b"\xff", b"\xff")):
        write_atomically(path, data)
        assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail() -> None:
        with open_atomically(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_folder_atomically_replaces_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder_atomically(folder, lambda draft: (draft / "old").write_text("1"))
    write_folder_atomically(folder, lambda draft: (draft / "new").write_text("2"))
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_failed_folder_write_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder_atomically(folder, lambda draft: (draft / "old").write_text("1"))

    def fail(draft: Path) -> None:
        (draft / "half").write_text("2")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_folder_atomically(folder, fail)
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


def test_failed_write_names_the_place(tmp_path: Path) -> None:
    """The error of a write has no file name, so a full disk would remain unnamed."""

    def fail(draft: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        write_folder_atomically(tmp_path / "folder", fail)
    assert raised.value.filename == str(tmp_path / "folder.tmp")
    with pytest.raises(OSError, match="No space left") as raised, open_atomically(tmp_path / "file"):
        fail(tmp_path)
    assert Path(raised.value.filename).parent == tmp_path


def test_interrupted_replace_leaves_an_intact_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "folder", tmp_path / "draft"
    for folder in (old, new):
        folder.mkdir()
        (folder / folder.name).touch()

    def die(self: Path, target: Path) -> Path:
        if self == new:
            raise KeyboardInterrupt
        os.rename(self, target)
        return target

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(new, old)
    monkeypatch.undo()
    assert not old.exists()
    assert (find_intact_folder(old) / "folder").exists()
    replace_folder(new, old)
    assert find_intact_folder(old) == old
    assert (old / "draft").exists()


def test_folder_whose_removal_is_killed_is_gone_under_its_name(tmp_path: Path) -> None:
    folder, removed = tmp_path / "folder", tmp_path / "folder.removed"
    folder.mkdir()
    for number in range(4000):
        (folder / f"{number}").touch()
    code = """if True:
        import os, signal, sys, threading
        from pathlib import Path
        from harness.core.files import remove_folder
        folder, removed = map(Path, sys.argv[1:])
        threading.Thread(target=remove_folder, args=[folder]).start()
        while folder.exists() or len(os.listdir(removed)) > 3500:
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", code, str(folder), str(removed)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == -signal.SIGKILL
    assert not folder.exists()
    assert removed.exists()
    folder.mkdir()
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_removed_folder_takes_its_backup_along(tmp_path: Path) -> None:
    """A checkpoint of which only the backup is left counts as one."""
    for names in (["folder"], ["folder.old"], ["folder", "folder.old"], []):
        for name in names:
            (tmp_path / name).mkdir()
        remove_folder(tmp_path / "folder")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [["folder"], ["folder.old"], ["folder", "folder.old"]])
def test_removal_cut_off_leaves_no_part_that_looks_whole(names, tmp_path: Path, monkeypatch) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        for file in ("a", "b"):
            (tmp_path / name / file).touch()

    def remove_one(path: Path, **_: object) -> None:
        if path.exists():
            next(path.iterdir()).unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(files.shutil, "rmtree", remove_one)
    with pytest.raises(KeyboardInterrupt):
        remove_folder(tmp_path / "folder")
    found = find_intact_folder(tmp_path / "folder")
    assert not found.exists() or len(list(found.iterdir())) == 2


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("step-1", "step-2.old", "step-3.tmp", "step-4.removed", "step-5.old.removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-2.old"]


def test_lock_excludes_others_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with FileLock(path) as lock:
        assert is_locked(path) is True
        assert not FileLock(path).acquire(blocking=False)
    assert is_locked(path) is False
    assert lock.acquire(blocking=False)
    lock.release()
    lock.release()  # harmless
    assert is_locked(path) is False


def test_lock_excludes_threads_that_share_the_object(tmp_path: Path) -> None:
    lock, log = FileLock(tmp_path / "lock"), []

    def work() -> None:
        for _ in range(50):
            with lock:
                log.append("enter")
                log.append("leave")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log == ["enter", "leave"] * 200


def test_lock_does_not_change_the_locked_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    with FileLock(path):
        assert path.read_text() == "content"


def test_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from harness.core.files import FileLock;"
        "lock = FileLock(Path(sys.argv[1])); lock.acquire(); print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert is_locked(tmp_path / "lock") is True
        holder.send_signal(signal.SIGKILL)
    assert is_locked(tmp_path / "lock") is False


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    path = tmp_path / "lock"
    path.touch()
    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="no locks available"):
        FileLock(path).acquire()
    with FileLock(path, required=False):
        assert is_locked(path) is None
