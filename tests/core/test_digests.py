"""A flipped bit in a file with a digest is noticed, or leaves what is read from it as it was."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.core import digests
from harness.core.digests import (
    add_digest_comment,
    check_digest_comment,
    check_exported,
    compute_file_digest,
    find_damaged_file,
    read_json,
    read_json_as,
    write_manifest,
)
from harness.core.errors import DamageError
from harness.record.metrics_file import encode_entry, read_entries, write_json

ENTRY = {"kind": "metrics", "at_ms": 12, "step": 3, "tokens": 96, "metrics": {"train/loss": 3.25}, "units": {}}
SETTINGS = {"model": {"heads": 2, "dropout": 0.1}, "lora": {"alpha": 16}}


def write_yaml(path: Path) -> None:
    path.write_text(add_digest_comment(yaml.safe_dump(SETTINGS)))


def read_yaml(path: Path) -> Any:
    content = path.read_bytes()
    check_digest_comment(path, content)
    found = yaml.safe_load(content)
    return {key: found[key] for key in SETTINGS}


def read_settings(path: Path) -> Any:
    found = read_json(path)
    return {key: found[key] for key in SETTINGS}


def write_record(path: Path) -> None:
    path.write_bytes(encode_entry({"kind": "start", "at_ms": 1}) + encode_entry(ENTRY))


def read_record(path: Path) -> Any:
    entries = [entry for entry, _ in read_entries(path)]
    return {key: entries[1][key] for key in ENTRY}


FORMATS: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any]]] = {
    "yaml": (write_yaml, read_yaml),
    "json": (lambda path: write_json(path, SETTINGS), read_settings),
    "jsonl": (write_record, read_record),
}
NOTICED = (DamageError, yaml.YAMLError, UnicodeDecodeError)


def flip_each_byte(path: Path) -> Iterator[int]:
    """Yield each position while one bit of that byte, chosen at random, is flipped in the file."""
    whole, choose = path.read_bytes(), random.Random(0)
    for position in range(len(whole)):
        flipped = whole[position] ^ 1 << choose.randrange(8)
        path.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
        yield position


@pytest.mark.parametrize("name", FORMATS)
def test_no_flipped_bit_changes_what_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"file.{name}"
    write, read = FORMATS[name]
    write(path)
    expected, noticed, last = read(path), 0, path.stat().st_size - 1
    for _ in flip_each_byte(path):
        try:
            assert read(path) == expected  # in spaces, and within the digest and its name
        except NOTICED:
            noticed += 1
    assert noticed > last / 2


def test_flipped_bit_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "numbers").write_bytes(bytes(10))
    write_manifest(tmp_path)
    assert find_damaged_file(tmp_path) is None
    verdicts = [find_damaged_file(tmp_path) for _ in flip_each_byte(tmp_path / "harness-files.json")]
    assert sum(verdict is None for verdict in verdicts) < 4  # line ends and spaces
    assert all(str(tmp_path) in verdict for verdict in verdicts if verdict)


def test_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [encode_entry({**ENTRY, "step": step}) for step in range(5)]
    path.write_bytes(b"".join([*lines[:3], lines[3].replace(b"3.25", b"3.75"), lines[4]]))
    with pytest.raises(DamageError, match=r"metrics\.jsonl, line 4: damaged or not an entry; delete that line"):
        list(read_entries(path))
    with pytest.raises(DamageError, match=r"metrics\.jsonl, line 4: "):
        list(read_entries(path, offset=len(lines[0] + lines[1])))


def test_file_is_read_once_while_it_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = tmp_path / "file", []
    original = digests.hashlib.file_digest
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda *given: reads.append(1) or original(*given))
    path.write_bytes(bytes(10))
    os.utime(path, (1, 1))
    first = compute_file_digest(path)
    assert compute_file_digest(path) == first
    os.link(path, tmp_path / "link")
    assert compute_file_digest(tmp_path / "link") == first
    assert len(reads) == 1
    path.write_bytes(bytes([*range(10)]))  # its time stamp is of now: another change may follow at the same time
    second = compute_file_digest(path)
    path.write_bytes(bytes(10))
    assert (second != first, compute_file_digest(path) == first, len(reads)) == (True, True, 3)


def test_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(ValueError, match=f"{path} is {kind}, not a regular file"):
            compute_file_digest(path)


def test_edited_export_is_refused_until_its_manifest_is_deleted(tmp_path: Path) -> None:
    check_exported(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    write_manifest(tmp_path)
    (tmp_path / "README.md").write_text("added later")
    check_exported(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    with pytest.raises(DamageError, match=r"config\.json is damaged.*delete harness-files\.json"):
        check_exported(tmp_path)
    (tmp_path / "harness-files.json").unlink()
    check_exported(tmp_path)


@dataclass(frozen=True)
class Point:
    x: int


def test_an_object_with_other_keys_than_a_dataclass_is_damaged(tmp_path) -> None:
    path = tmp_path / "point.json"
    path.write_text('{"x": 3}')
    assert read_json_as(Point, path) == Point(3)
    for text in ("{}", '{"x": 3, "y": 4}', "[]", "null"):
        path.write_text(text)
        with pytest.raises(DamageError, match=r"point\.json is damaged"):
            read_json_as(Point, path)
