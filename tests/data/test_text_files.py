"""Files of text that cannot be read to their end, are huge or are damaged are refused by name."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data import text_files
from harness.data.sources import JSONL, TextFiles
from harness.data.text_files import find_data_files, read_json_objects, read_text_file

ROW = b'{"text": "caf\xc3\xa9"}\r\n'


def make_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def make_broken_link(path: Path) -> Path:
    path.symlink_to(path.parent / "absent")
    return path


ODD_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pipe": (make_pipe, "one.txt is a pipe, not a regular file"),
    "folder with a pipe": (lambda path: make_pipe(path).parent, "one.txt is a pipe, not a regular file"),
    "folder with a broken link": (lambda path: make_broken_link(path).parent, "one.txt is a broken link; remove"),
    "device": (lambda _: Path("/dev/zero"), "/dev/zero is a device, not a regular file"),
}


@pytest.mark.parametrize(("make", "message"), ODD_FILES.values(), ids=ODD_FILES)
def test_odd_file_is_refused_by_name(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = make(tmp_path / "one.txt")
    with pytest.raises(ValueError, match=f"^path: .*{message}"):
        TextFiles(str(path))


def test_folder_named_like_a_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "chapter.txt").mkdir()
    (tmp_path / "chapter.txt" / "one.txt").write_text("text")
    assert [path.name for path in find_data_files(str(tmp_path), (".txt",))] == ["one.txt"]


def test_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(ROW * 100_000))
    monkeypatch.setattr(text_files, "MAX_UNPACKED_BYTES", 1_000_000)
    message = (
        r"^path: .*bomb\.jsonl\.gz is larger than 1 MB when unpacked; unpack it \(gunzip\), since plain files have"
    )
    with pytest.raises(ValueError, match=message):
        read_text_file(tmp_path / "bomb.jsonl.gz")
    with pytest.raises(ValueError, match=message):
        list(JSONL(str(tmp_path / "bomb.jsonl.gz")).iter_documents())
    (tmp_path / "plain.jsonl").write_bytes(ROW * 100_000)
    assert sum(1 for _ in read_json_objects(tmp_path / "plain.jsonl")) == 100_000
    with pytest.raises(ValueError, match=r"plain\.jsonl is larger than 1 kB; split it"):
        read_text_file(tmp_path / "plain.jsonl", 1000)


def test_long_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_JSON_LINE_BYTES", 1000)
    (tmp_path / "long.jsonl").write_bytes(ROW + b'{"text": "' + b"x" * 2000 + b'"}\n')
    with pytest.raises(ValueError, match=r"long\.jsonl, line 2 is longer than 1 kB; split it"):
        list(read_json_objects(tmp_path / "long.jsonl"))


def test_rows_are_those_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + ROW + b"\r\n" + ROW.rstrip())
    rows = list(read_json_objects(tmp_path / "rows.jsonl"))
    path = tmp_path / "rows.jsonl"
    assert rows == [(f"{path}, line 1", {"text": "café"}), (f"{path}, line 3", {"text": "café"})]


def test_invalid_byte_has_its_offset_in_the_file(tmp_path: Path) -> None:
    content = ROW + b'{"text": "caf\xe9"}\n'
    (tmp_path / "latin.jsonl").write_bytes(content)
    message = rf"latin\.jsonl is not UTF-8: byte 0xE9 at offset {content.index(0xE9)}"
    for read in (read_text_file, lambda path: list(read_json_objects(path))):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "latin.jsonl")


@pytest.mark.parametrize("content", [b"plain text", gzip.compress(ROW * 9, mtime=0)[:-9], b"\x1f\x8bno"])
def test_damaged_gzip_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(content)
    for read in (read_text_file, lambda path: list(read_json_objects(path))):
        with pytest.raises(ValueError, match=r"^path: .*rows\.jsonl\.gz is not a complete gzip file: "):
            read(tmp_path / "rows.jsonl.gz")
