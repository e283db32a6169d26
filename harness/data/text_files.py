"""Find and read text files, plain or .gz, with messages that name file and line."""

import csv
import glob
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from harness.core.files import check_regular_file
from harness.core.formatting import format_bytes
from harness.core.input_files import GZIP_MAGIC, open_input
from harness.data.encodings import find_wide_encoding, suggest_conversion

MAX_CSV_FIELD_CHARS = 2**31 - 1  # the csv module's default is 131,072
MAX_UNPACKED_BYTES = 2 * 10**9  # of a .gz file
BINARY_PROBE_BYTES = 1024  # a zero byte in these, and the file is not text
MAX_JSON_LINE_BYTES = 250_000_000


def find_data_files(path: str | Sequence[str], suffixes: tuple[str, ...], key: str = "path") -> list[Path]:
    """Return the files that `path` names: a file, those in a folder with one of `suffixes`, a glob, or a list of these.

    They are sorted, except that those of a list follow its order. Messages call `path` by its `key`.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If some are empty, named twice, or pipes, devices or broken links.
    """
    if not isinstance(path, str):
        files = [file for one in path for file in find_data_files(one, suffixes, key)]
        if twice := [str(file) for file in files if files.count(file) > 1]:
            raise ValueError(f"{key}: {twice[0]} is named twice; name it once")
        if not files:
            raise ValueError(f"{key}=[] is empty; give a file, a folder or a glob")
        return files
    if not path:  # Path("") would be the working directory
        raise ValueError(f"{key}='' is empty; give a file, a folder or a glob")
    place = Path(path).expanduser()
    if place.is_dir():
        found = [file for file in place.rglob("*") if file.name.removesuffix(".gz").endswith(suffixes)]
    else:
        found = [place] if place.exists() else [Path(match) for match in glob.glob(str(place), recursive=True)]
    for file in found:  # leaving one out would change the data in silence
        if not file.is_dir():
            _check_file(file, key)
    found = sorted(file for file in found if file.is_file())
    if not found:
        kind = f"holds no {', '.join(suffixes)} file" if place.is_dir() else "does not exist"
        raise FileNotFoundError(f"{key}={path!r} {kind}; give a file, a folder or a glob")
    if empty := [str(file) for file in found if not file.stat().st_size]:
        raise ValueError(f"{key}: {', '.join(empty)} is empty; give files with content")
    return found


def read_text_file(path: Path, max_bytes: int = sys.maxsize) -> str:
    """Return the text of a file (.gz too) with Unix line ends and without a byte order mark.

    Raises:
        ValueError: If it is not UTF-8, not a complete gzip file, larger than `max_bytes`, or unpacks to more than
            MAX_UNPACKED_BYTES.
    """
    return normalize_text(read_unchanged_text(path, max_bytes))


def read_unchanged_text(path: Path, max_bytes: int = sys.maxsize) -> str:
    """Return the text of a file (.gz too) as it is; for errors see `read_text_file`."""
    with _open_text(path, max_bytes) as file:
        return _decode(file.read(), path)


def normalize_text(text: str) -> str:
    """Return the text with Unix line ends and without a byte order mark."""
    text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n") if "\r" in text else text


def read_json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and line, object) for each non-blank line. Only one line at a time is in memory.

    Raises:
        ValueError: If a line is not a JSON object, or the file cannot be read, as in `read_text_file`.
    """
    offset = 0
    with _open_text(path) as file:
        for number, content in enumerate(iter(lambda: file.readline(MAX_JSON_LINE_BYTES + 1), b""), 1):
            where = f"{path}, line {number}"
            if len(content) > MAX_JSON_LINE_BYTES:
                raise ValueError(f"path: {where} is longer than {format_bytes(MAX_JSON_LINE_BYTES)}; split it")
            line = _decode(content, path, offset)
            offset += len(content)
            if number == 1:
                line = line.removeprefix("\ufeff")
            if line.strip():
                yield where, _parse_object(line, where)


def _open_text(path: Path, max_bytes: int = sys.maxsize) -> IO[bytes]:
    """Open a file, or the content of a .gz file, for reading.

    Raises:
        ValueError: If it is not a regular file, not packed in spite of its name, or too large.
    """
    _check_file(path)
    if path.suffix != ".gz":
        return open_input(path, max_bytes, "split it", key="path: ", unpack=False)
    with path.open("rb") as file:
        if file.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
            raise ValueError(f"path: {path} is not a complete gzip file: it does not begin like one")
    remedy = "split it" if max_bytes < MAX_UNPACKED_BYTES else "unpack it (gunzip), since plain files have no limit"
    return open_input(path, min(max_bytes, MAX_UNPACKED_BYTES), remedy, key="path: ")


def _check_file(path: Path, key: str = "path") -> None:
    try:
        check_regular_file(path)
    except (OSError, ValueError) as error:
        problem = "is a broken link; remove or repair it" if isinstance(error, FileNotFoundError) else ""
        raise ValueError(f"{key}: {f'{path} {problem}' if problem else error}") from error


def _decode(content: bytes, path: Path, offset: int = 0) -> str:
    """Decode a part of the file that begins at byte `offset`."""
    if name := find_wide_encoding(content):
        raise ValueError(
            f"path: {path} is {name.upper()} text, not UTF-8; convert it: iconv -f {name} -t utf-8 FILE > NEW"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if b"\0" in content[:BINARY_PROBE_BYTES]:
            raise ValueError(f"path: {path} is not a text file; choose one, or convert it to text") from error
        raise ValueError(
            f"path: {path} is not UTF-8: byte 0x{content[error.start]:02X} at offset {offset + error.start}; "
            f"{suggest_conversion(content)}"
        ) from error


def _parse_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"path: {where} is not JSON: {error}; write an object on each line, or use data=text"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(
            f'path: {where} is not a JSON object but {type(row).__name__}; write an object such as {{"text": ...}}'
        )
    return row


def get_csv_dialect(path: Path) -> dict[str, Any] | None:
    """Return the options that the csv module needs for a .csv or .tsv file (.gz too), None for other files."""
    dialects: dict[str, dict[str, Any]] = {".csv": {}, ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE}}
    return dialects.get(Path(path.name.removesuffix(".gz")).suffix)
