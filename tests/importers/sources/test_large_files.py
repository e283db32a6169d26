"""Logs that never end, are huge, or unpack to something huge are refused by name, within a limit on memory."""

import gzip
import os
import re
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import importers
from harness.core import input_files
from harness.core.input_files import open_input
from harness.importers import read_history, rows
from harness.importers.sources import log_files
from harness.observers.metrics_writer import MetricsWriter
from tests.conftest import drop_announcements
from tests.observers.sample_events import sample_run, send_events

LOG = b"".join(b"step %d | loss %.3f | lr 1e-4\n" % (step, 4 - step / 100) for step in range(1, 101))
ENDLESS = b"nothing of interest in this line of a log\n"


def feed_pipe(path: Path, content: bytes, repeat: int = 1) -> threading.Thread:
    """Start to write to a new pipe; the writer ends when its reader does."""
    os.mkfifo(path)

    def write() -> None:
        try:
            with path.open("wb") as pipe:
                for _ in range(repeat):
                    pipe.write(content)
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    return writer


def read_pipe(path: Path) -> importers.History:
    """Read a pipe whose writer may not have opened it yet."""
    for _ in range(200):
        try:
            return read_history(path)
        except ValueError as error:
            if "nobody writes to" not in str(error):
                raise
            threading.Event().wait(0.01)
    raise AssertionError("the pipe stayed empty")


@pytest.mark.parametrize("kind", ["pipe", "gzip", "gzipped pipe"])
def test_pipe_and_gzip_are_read_as_the_plain_file(kind: str, tmp_path: Path) -> None:
    (tmp_path / "plain.log").write_bytes(LOG)
    content = gzip.compress(LOG) if "gzip" in kind else LOG
    if "pipe" in kind:
        feed_pipe(tmp_path / "log", content)
        history = read_pipe(tmp_path / "log")
    else:
        (tmp_path / "log").write_bytes(content)
        history = read_history(tmp_path / "log")
    assert history["train/loss"].values.tolist() == read_history(tmp_path / "plain.log")["train/loss"].values.tolist()


def test_record_of_a_run_is_read_from_a_pipe(tmp_path: Path) -> None:
    send_events([MetricsWriter()], sample_run(tmp_path / "a run"))
    record = tmp_path / "a run" / "metrics.jsonl"
    feed_pipe(tmp_path / "pipe", record.read_bytes())
    found, expected = read_pipe(tmp_path / "pipe"), read_history(record)
    assert found.facts.name == expected.facts.name
    assert found["val/loss"].values.tolist() == expected["val/loss"].values.tolist()


def test_command_line_reads_process_substitution(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, LOG)
    os.close(writing)
    try:
        assert len(read_history(Path(f"/dev/fd/{reading}"))["train/loss"]) == 100
    finally:
        os.close(reading)


def make_pipe_without_writer(path: Path) -> Path:
    os.mkfifo(path)
    return path


def make_socket(path: Path) -> Path:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()
    return path


ODD_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pipe without a writer": (make_pipe_without_writer, "is a pipe that is empty, or that nobody writes to"),
    "socket": (make_socket, "is a socket, not a regular file"),
    "device": (lambda _: Path("/dev/zero"), "is a device, not a regular file"),
    "folder of a pipe": (lambda path: make_pipe_without_writer(path).parent, "contains no log; pass the path of"),
    "half a gzip file": (lambda path: path.write_bytes(gzip.compress(LOG)[:-20]) and path, "not a complete gzip file"),
    "spoilt gzip file": (
        lambda path: path.write_bytes(gzip.compress(LOG)[:40] + bytes(99)) and path, "not a complete gzip file",
    ),
    "empty gzip file": (lambda path: path.write_bytes(gzip.compress(b"")) and path, "the file is empty"),
    "gzipped folder of events": (
        lambda path: path.write_bytes(gzip.compress(bytes(9) + log_files.TENSORBOARD_MARKER)) and path,
        "unpack or save it first",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), ODD_FILES.values(), ids=ODD_FILES)
def test_odd_file_is_refused_by_name(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = make(tmp_path / "odd")
    with pytest.raises(ValueError, match=message) as error:
        read_history(path)
    assert str(error.value).startswith(str(path))


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_LOG_BYTES", 1_000_000)
    monkeypatch.setattr(log_files, "MAX_JSON_BYTES", 500_000)
    monkeypatch.setattr(input_files.iterate_lines, "__defaults__", (250_000,))
    monkeypatch.setattr(rows, "MAX_ROWS", 1000)


BIG_FILES = {
    "gzip bomb": (gzip.compress(ENDLESS * 50_000, 1), "larger than 1 MB when unpacked; give its last part"),
    "big log": (ENDLESS * 50_000, "larger than 1 MB; give its last part (tail -c 100M FILE"),
    "one line": (b"x" * (3 << 18), "line 1: longer than 250 kB, so this is not a line-based log; give its last part"),
    "lines, then one line": (LOG + b"x" * (3 << 18), "line 101: longer than 250 kB"),
    "big state": (b'{"log_history": [' + b" " * (3 << 18) + b"]}", "JSON that is larger than 500 kB; give an earlier"),
    "many rows": (LOG * 11, "more than 1,000 rows with numbers; give every tenth, or the last part"),
    "many lines of JSON": (b'{"step": 1, "loss": 2.0}\n' * 1001, "more than 1,000 rows"),
    "big table": (b"step,loss\n" + b"1,2.0\n" * 1001, "more than 1,000 rows"),
    "deep JSON": (b'{"a": ' * 50_000 + b"\n", "no step and loss found"),
    "deep line of JSON": (b'{"step": 1, "loss": 2.0}\n' + b"[" * 100_000 + b"\n", "1 of 2 lines are no JSON"),
}


@pytest.mark.parametrize(("content", "message"), BIG_FILES.values(), ids=BIG_FILES)
def test_big_file_is_refused_by_name(content: bytes, message: str, tmp_path: Path, low_limits: None) -> None:
    path = tmp_path / "big"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_history(path)
    assert str(error.value).startswith(str(path))


def test_endless_pipe_ends_at_the_limit(tmp_path: Path, low_limits: None) -> None:
    writer = feed_pipe(tmp_path / "pipe", ENDLESS, repeat=10**9)
    with pytest.raises(ValueError, match="larger than 1 MB; give its last part"):
        read_pipe(tmp_path / "pipe")
    writer.join(timeout=10)
    assert not writer.is_alive()


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_lines_are_those_of_the_text_at_any_chunk_size(
    line_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["\ufeffstep 1", "", "café", "é" * 5, "last"]
    (tmp_path / "file").write_bytes(line_end.join(lines).encode())
    for size in (1, 2, 3, 7, 100):
        monkeypatch.setattr(input_files, "CHUNK_BYTES", size)
        with open_input(tmp_path / "file", 1000, "") as file:
            found = list(input_files.iterate_lines(file, tmp_path / "file", ""))
        assert found == ["step 1", *lines[1:]]


HUGE = {
    "a file of 3 GB of zeros": "truncate -s 3G {path}",
    "a line of 900 MB": "head -c 900000000 /dev/zero | tr '\\0' x > {path}",
    "8 MB that unpack to 1.2 GB": "yes '{line}' | head -c 1200000000 | gzip -1 > {path}",
    "rows of metrics": "yes 'step 1 loss 2.0' | head -c 200000000 | gzip -1 > {path}",
    "yes": "",
}


@pytest.mark.slow
@pytest.mark.parametrize("make", HUGE.values(), ids=HUGE)
def test_huge_file_takes_bounded_memory(make: str, tmp_path: Path) -> None:
    path = tmp_path / "huge"
    subprocess.run(make.format(path=path, line=ENDLESS.decode().strip()), shell=True, check=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    command = f"exec {sys.executable} -m harness diagnose {path if make else '<(yes)'}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"peak {max(before, peak) / 1e6:.2f} GB: {done.stderr.strip()}")
    assert done.returncode == 2
    message = drop_announcements(done.stderr)
    assert message.startswith("/")
    assert message.count("\n") == 1
    assert peak < 2.5e6  # KB
