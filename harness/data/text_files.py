"""Find and read text files, plain or .gz, with messages that name file and line."""

import csv
import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_CSV_FIELD_CHARS = 2**31 - 1  # the csv module's default is 131,072


def find_data_files(path: str, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files that `path` names, sorted: a file, those in a folder with one of `suffixes`, or a glob.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If some are empty.
    """
    if not path:  # Path("") would be the working directory
        raise ValueError("path='' is empty; give a file, a folder or a glob")
    place = Path(path).expanduser()
    if place.is_dir():
        found = [file for file in place.rglob("*") if file.name.removesuffix(".gz").endswith(suffixes)]
    else:
        found = [place] if place.is_file() else [Path(match) for match in glob.glob(str(place), recursive=True)]
    found = sorted(file for file in found if file.is_file())
    if not found:
        kind = f"holds no {', '.join(suffixes)} file" if place.is_dir() else "does not exist"
        raise FileNotFoundError(f"path={path!r} {kind}; give a file, a folder or a glob")
    if empty := [str(file) for file in found if not file.stat().st_size]:
        raise ValueError(f"path={path!r}: empty: {', '.join(empty)}")
    return found


def read_text_file(path: Path) -> str:
    """Return the text of a file (.gz too) with Unix line ends and without a byte order mark.

    Raises:
        ValueError: If it is not UTF-8 or not a complete gzip file.
    """
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"path: {path} is not UTF-8: byte 0x{byte:02X} at offset {error.start}; "
            "convert it, for example with iconv -f latin1 -t utf-8"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"path: {path} is not a complete gzip file: {error}") from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def read_json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and line, object) for each non-blank line.

    Raises:
        ValueError: If a line is not a JSON object.
    """
    for number, line in enumerate(read_text_file(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"path: {where} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"path: {where} is not a JSON object but {type(row).__name__}")
            yield where, row


def get_csv_dialect(path: Path) -> dict[str, Any] | None:
    """Return the options that the csv module needs for a .csv or .tsv file (.gz too), None for other files."""
    dialects: dict[str, dict[str, Any]] = {".csv": {}, ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE}}
    return dialects.get(Path(path.name.removesuffix(".gz")).suffix)
