"""Open files from outside without hanging and without filling the memory: plain ones, .gz, and pipes on request."""

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from harness.core.files import check_regular_file
from harness.core.formatting import format_bytes

GZIP_MAGIC = b"\x1f\x8b"
CHUNK_BYTES = 1 << 20
MAX_LINES = 10_000_000
MAX_LINE_BYTES = 16_000_000  # a progress bar of 8 hours that never ends its line has less


def open_input(
    path: Path, max_bytes: int, remedy: str, *, allow_pipe: bool = False, unpack: bool = True, key: str = ""
) -> io.BufferedReader:
    """Open a file for reading once, from its start. Content in gzip format is unpacked if `unpack` is set.

    `peek` returns up to 1 MiB of its beginning. Reading raises ValueError at damaged gzip content, and after
    `max_bytes`; then the message ends with `remedy`. `key` precedes the path in messages.

    Raises:
        ValueError: If it is a folder, a socket, a device, or a pipe that is not allowed or that nobody writes to.
        OSError: If there is no such file.
    """
    if not (allow_pipe and stat.S_ISFIFO(path.stat().st_mode)):
        check_regular_file(path)
        file: IO[bytes] = path.open("rb")
    else:
        file = io.BufferedReader(_Reader(_open_pipe(path)))
    try:
        is_packed = unpack and _peek_bytes(file, len(GZIP_MAGIC)) == GZIP_MAGIC
    except BaseException:
        file.close()
        raise
    source = gzip.GzipFile(fileobj=file) if is_packed else file
    too_large = f"{key}{path} is larger than {format_bytes(max_bytes)}{' when unpacked' * is_packed}; {remedy}"
    n_read = 0

    def read_checked(size: int) -> bytes:
        nonlocal n_read
        try:
            chunk = source.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{key}{path} is not a complete gzip file: {error}") from error
        n_read += len(chunk)
        if n_read > max_bytes:
            raise ValueError(too_large)
        return chunk

    if not is_packed and path.stat().st_size > max_bytes:
        file.close()
        raise ValueError(too_large)
    return io.BufferedReader(_Reader(read_checked, file), CHUNK_BYTES)


def iterate_lines(
    file: IO[bytes], path: Path, remedy: str, max_line_bytes: int = MAX_LINE_BYTES, *, errors: str = "replace"
) -> Iterator[str]:
    r"""Yield the lines of UTF-8 text without their ends, which are \n, \r\n or \r. `errors` is that of `bytes.decode`.

    Raises:
        ValueError: If a line is longer than `max_line_bytes`, or there are more than MAX_LINES; the message ends with
            `remedy`.
    """
    number, rest = 0, b""
    while chunk := file.read(CHUNK_BYTES):
        if chunk.endswith(b"\r"):  # its \n may follow
            chunk += file.read(1)
        *lines, rest = (rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            number += 1
            yield line.decode(errors=errors) if number > 1 else line.decode("utf-8-sig", errors=errors)
        if number > MAX_LINES:
            raise ValueError(f"{path}: more than {MAX_LINES:,} lines; {remedy}")
        if len(rest) > max_line_bytes:
            limit = format_bytes(max_line_bytes)
            place = f"{path}, line {number + 1}"
            raise ValueError(f"{place}: longer than {limit}, so this is not a line-based log; {remedy}")
    if rest:
        yield rest.decode("utf-8" if number else "utf-8-sig", errors=errors)


def _peek_bytes(file: Any, size: int) -> bytes:
    head: bytes = file.peek(size)[:size]
    return head


def _open_pipe(path: Path) -> Callable[[int], bytes]:
    """Return a function that reads a pipe.

    Raises:
        ValueError: If nobody writes to it, or what was written was empty.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else opening would wait for a writer
    try:
        first = os.read(descriptor, CHUNK_BYTES)
    except BlockingIOError:  # it has a writer, which has written nothing yet
        first = None
    if first == b"":
        os.close(descriptor)
        raise ValueError(f"{path} is a pipe that is empty, or that nobody writes to; start its writer first")
    os.set_blocking(descriptor, True)
    file = io.FileIO(descriptor)
    pending = [first] if first else []

    def read(size: int) -> bytes:
        if not pending:
            return file.read(size) or b""
        chunk = pending.pop()
        if len(chunk) > size:
            pending.append(chunk[size:])
        return chunk[:size]

    return read


class _Reader(io.RawIOBase):
    """A raw file that reads with `read`, and closes `file` when it is closed."""

    def __init__(self, read: Callable[[int], bytes], file: IO[bytes] | None = None) -> None:
        self._read, self._file = read, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()
