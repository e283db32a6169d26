"""Encodings of logs, and what terminals and word processors leave in them."""

import codecs
import gzip
from pathlib import Path

import pytest

from harness.importers import read_history
from harness.importers.sources.decoding import plain_line

LINES = [f"step {step} | loss {4 - step / 100:.2f} | note Zürich" for step in range(10, 60, 10)]
TEXT = "\n".join(LINES)
ENCODED = {
    "utf-8": TEXT.encode(),
    "utf-8 with a mark": codecs.BOM_UTF8 + TEXT.encode(),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16, big end first": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-16 without a mark": TEXT.encode("utf-16-le"),
    "utf-16, big end first, without a mark": TEXT.encode("utf-16-be"),
    "latin-1": TEXT.encode("latin-1"),
    "Windows": TEXT.replace("\n", "\r\n").encode("utf-16"),
    "truncated while open": b"\0" * 5000 + TEXT.encode(),
    "truncated while open, by far": b"\0" * 3_000_001 + TEXT.encode(),
    "zeros amid": TEXT.encode().replace(b"step 20", b"\0" * 300 + b"step 20"),
    "gzip": gzip.compress(TEXT.encode("utf-16")),
    "progress": TEXT.replace("\n", "\r").encode(),
    "backspaces": TEXT.replace("\n", "\b" * 40).encode(),
    "colors": TEXT.replace("loss", "\x1b[1;33mloss:\x1b[0m\x1b[K").replace("step", "\x1b[32mstep\x1b[39m").encode(),
    "window title": b"\x1b]0;training\x07" + TEXT.encode(),
    "colors without escapes": TEXT.replace("loss", "[33mloss:[0m").replace("3.9", "[1;31m3.9").encode(),
    "typography": TEXT.replace(" loss ", "\u00a0\u201closs\u201d\uff1a\u2009").replace("|", "\u2502").encode(),
}


@pytest.mark.parametrize("content", ENCODED.values(), ids=ENCODED)
def test_encoding_is_recognized(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    history = read_history(path)
    assert history["train/loss"].steps.tolist() == [10, 20, 30, 40, 50]
    assert history["train/loss"].values.tolist() == [3.9, 3.8, 3.7, 3.6, 3.5]


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("lr 1e\u221205 \u2013 loss \u22123", "lr 1e-05 - loss -3"),
        ("\uff11\uff0c\uff4c", "1,l"),
        ("took [3m 20s], [32m 5s]", "took [3m 20s], [32m 5s]"),
        ("a list [1, 2] [m] [0.5m]", "a list [1, 2] [m] [0.5m]"),
    ],
)
def test_plain_line(line: str, plain: str) -> None:
    assert plain_line(line) == plain


@pytest.mark.parametrize(
    "content", [bytes(range(256)) * 20, b"PK\3\4\x14\0\0\0\x08\0" * 50, b"\x89PNG\r\n\x1a\n\0\0\0\r" * 9]
)
def test_binary_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(ValueError, match="not a text file"):
        read_history(tmp_path / "log")
