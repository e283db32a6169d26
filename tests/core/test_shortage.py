import errno
import os
import sqlite3
from pathlib import Path

import pytest

from harness.core.shortage import ShortageError, describe_full_disk, describe_shortage


def raise_unrelated() -> ValueError:
    """Return an error that was raised after one of the disk had been handled."""
    try:
        try:
            raise OSError(errno.ENOSPC, "x")
        except OSError:
            raise ValueError("unrelated") from None
    except ValueError as error:
        return error


def raise_wrapped(cause: Exception) -> RuntimeError:
    """Return an error with `cause`, as libraries raise it."""
    try:
        raise RuntimeError("writing failed") from cause
    except RuntimeError as error:
        return error


SHORTAGES = {
    "disk": (OSError(errno.ENOSPC, "No space left on device"), "no space left on"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk quota exceeded on"),
    "file size": (OSError(errno.EFBIG, "File too large"), "file size limit reached on"),
    "open files": (OSError(errno.EMFILE, "Too many open files"), "raise the limit with ulimit -n"),
    "open files of the machine": (OSError(errno.ENFILE, "Too many open files in system"), "on this machine"),
    "open files, as text": (Exception(os.strerror(errno.ENFILE)), "on this machine"),
    "wrapped": (raise_wrapped(OSError(errno.ENOSPC, "x")), "no space left on"),
    "safetensors": (Exception("I/O error: No space left on device (os error 28)"), "no space left on"),
    "SQLite": (sqlite3.OperationalError("database or disk is full"), "no space left on"),
}


@pytest.mark.parametrize(("error", "text"), SHORTAGES.values(), ids=SHORTAGES)
def test_shortages_are_recognized(error: Exception, text: str, tmp_path: Path) -> None:
    found = describe_shortage(error, tmp_path)
    assert text in found
    assert (f"{tmp_path} (" in found) == ("open files" not in found)  # that has nothing to do with the folder


def test_folder_of_the_file_that_could_not_be_written_is_reported(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "model.safetensors"))
    assert str(tmp_path) in describe_shortage(error, Path("/"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("28"),
        raise_unrelated(),
        RuntimeError("413: File too large"),
        OSError(errno.ENOENT, "No such file"),
        OSError(errno.EACCES, "Permission denied"),
        RuntimeError("PytorchStreamWriter failed writing file data/0"),  # this disk has space
    ],
)
def test_other_errors_are_no_shortage(error: Exception, tmp_path: Path) -> None:
    assert describe_shortage(error, tmp_path) == ""


def test_shortage_keeps_its_message(tmp_path: Path) -> None:
    assert describe_shortage(ShortageError("no space left on /a"), tmp_path) == "no space left on /a"
    assert describe_full_disk(tmp_path) == ""
