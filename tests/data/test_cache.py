"""Cached folders survive damage, failing writers and concurrent processes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data.cache import ensure_cached


def write_two_files(folder: Path) -> None:
    (folder / "deeper").mkdir()
    (folder / "numbers").write_bytes(bytes(1000))
    (folder / "deeper" / "words").write_text("two words")


def fail_if_called(folder: Path) -> None:
    raise AssertionError("written twice")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a file cut short": lambda folder: (folder / "numbers").write_bytes(bytes(500)),
    "a file lost": lambda folder: (folder / "deeper" / "words").unlink(),
    "a file too many": lambda folder: (folder / "stray").write_text(""),
    "a manifest cut short": lambda folder: (folder / "harness-files.json").write_text('{"numbers": 10'),
    "a manifest lost": lambda folder: (folder / "harness-files.json").unlink(),
}


def test_complete_folder_is_not_written_again(tmp_path: Path) -> None:
    ensure_cached(tmp_path / "a", write_two_files)
    assert (ensure_cached(tmp_path / "a", fail_if_called) / "deeper" / "words").read_text() == "two words"


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE)
def test_damaged_folder_is_written_again(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    harm(ensure_cached(tmp_path / "a", write_two_files))
    folder = ensure_cached(tmp_path / "a", write_two_files)
    assert (folder / "numbers").stat().st_size == 1000
    assert not (folder / "stray").exists()
    ensure_cached(folder, fail_if_called)


def test_failing_writer_leaves_no_folder(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_two_files(folder)
        raise ValueError("no such text")

    with pytest.raises(ValueError, match="no such text"):
        ensure_cached(tmp_path / "a", fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert (ensure_cached(tmp_path / "a", write_two_files) / "numbers").exists()


def test_killed_writer_does_not_block_the_next(tmp_path: Path) -> None:
    code = """
import os, pathlib, sys
from harness.data.cache import ensure_cached
def die(folder):
    (folder / "numbers").write_bytes(bytes(10))
    os._exit(9)
ensure_cached(pathlib.Path(sys.argv[1]), die)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")]).returncode == 9
    assert (ensure_cached(tmp_path / "a", write_two_files) / "numbers").stat().st_size == 1000


def test_concurrent_processes_write_once(tmp_path: Path) -> None:
    code = """
import pathlib, sys, time
from harness.data.cache import ensure_cached
folder = pathlib.Path(sys.argv[1])
def write(draft):
    with folder.with_name("log").open("a") as log:
        log.write("written\\n")
    time.sleep(0.5)
    (draft / "numbers").write_bytes(bytes(10))
print((ensure_cached(folder, write) / "numbers").stat().st_size)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=30)[0] for process in both] == ["10\n", "10\n"]
    assert (tmp_path / "log").read_text() == "written\n"
