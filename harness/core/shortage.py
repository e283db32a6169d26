"""Recognize errors that mean the machine has run out of disk space or open files: nothing is wrong with the run."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import RunFailedError
from harness.core.formatting import format_bytes

NO_SPACE = "no space left on"
NEARLY_FULL_BYTES = 1 << 20
SHORTAGE_BY_ERRNO = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: "disk quota exceeded on",
    errno.EFBIG: "file size limit reached on",
    errno.ENFILE: "too many open files on this machine",  # must precede EMFILE, whose text is part of this one
    errno.EMFILE: "too many open files; raise the limit with ulimit -n",
}
# safetensors, SQLite and libraries that wrap the error keep only its text. "File too large" is also said of uploads.
SHORTAGE_BY_TEXT = {os.strerror(number): kind for number, kind in SHORTAGE_BY_ERRNO.items() if number != errno.EFBIG}
SHORTAGE_BY_TEXT["database or disk is full"] = NO_SPACE
# torch.save reports any failed write with one of these texts.
WRITE_FAILED_TEXTS = ("PytorchStreamWriter failed", "inline_container.cc")


class ShortageError(RunFailedError):
    """The machine has run out of disk space or open files; the same command works once they are free."""


def describe_shortage(error: BaseException, folder: Path) -> str:
    """Return what the machine ran out of, if that caused `error`; else an empty string.

    `folder` is where the process writes; if the error names a file, the folder of that file is reported instead.
    """
    if isinstance(error, ShortageError):
        return str(error)
    chain = list(_iterate_causes(error))
    for cause in chain:
        kind = SHORTAGE_BY_ERRNO.get(cause.errno or 0) if isinstance(cause, OSError) else None
        kind = kind or next((kind for text, kind in SHORTAGE_BY_TEXT.items() if text in str(cause)), None)
        if kind:
            named = cause.filename if isinstance(cause, OSError) else None
            return _format_shortage(kind, Path(os.fsdecode(named)).parent if isinstance(named, str | bytes) else folder)
    if any(text in str(cause) for cause in chain for text in WRITE_FAILED_TEXTS):
        return describe_full_disk(folder)
    return ""


def describe_full_disk(folder: Path) -> str:
    """Return that the disk of `folder` is full, or an empty string if it is not."""
    free = free_bytes(folder)
    return _format_shortage(NO_SPACE, folder) if free is not None and free < NEARLY_FULL_BYTES else ""


def free_bytes(folder: Path) -> int | None:
    """Return the bytes that a file in `folder`, or in its nearest existing parent, may take; None if unknown."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        found = os.statvfs(existing)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _format_shortage(kind: str, folder: Path) -> str:
    if not kind.endswith(" on"):
        return kind
    free = free_bytes(folder)
    return f"{kind} {folder}" + (f" ({format_bytes(free)} free)" if free is not None else "")


def _iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
