"""Text of any encoding, as plain lines: what terminals, Windows and word processors put into logs is taken out."""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from harness.core.input_files import iterate_lines
from harness.importers.foreign_words import has_foreign_letters, translate_words

UTF16_BOMS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
PROBE_BYTES = 4096
"""The encoding is read off so many bytes after those that are 0."""
MAX_CONTROL_SHARE = 0.05
"""Text has fewer control characters, besides ANSI sequences, tabs and line ends."""
ANSI_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b|\^\[\[)[0-?]*[ -/]*[@-~]"  # colors and cursor movements; ^[ is how pagers show ESC
    r"|\x1b\][^\x07\x1b]{0,500}(?:\x07|\x1b\\)"  # window titles and links
    r"|\x1b[@-Z\\-_]"
    r"|\[(?:[0-2];)?(?:[0-24-7]|[349][0-9]|10[0-7]|38;5;\d{1,3})(?:;\d{1,3}){0,3}m(?!\s?\d+s)"  # ESC lost by pasting
)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
BACKSPACES = re.compile(r"\x08{4,}")  # with which a progress bar overwrites itself
PLAIN_CHARACTERS = (
    str.maketrans(
        "\u2018\u2019\u201a\u201b\u2032\u201c\u201d\u201e\u2033\u00ab\u00bb\u2010\u2011\u2012\u2013\u2014\u2212\u2502\u2503\u2551",
        '\'\'\'\'\'""""""------|||',
    )
    | dict.fromkeys(
        map(ord, "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"), " "
    )
    | dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))
    | {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms of ASCII
)
"""Typographic quotes, dashes, spaces and full-width characters, and what a program would have printed."""


def detect_encoding(head: bytes) -> str:
    """Return "utf-8", "utf-16-le" or "utf-16-be" for a file that begins with `head`."""
    if head[:2] in UTF16_BOMS:
        return UTF16_BOMS[head[:2]]
    start = len(head) - len(head.lstrip(b"\0"))
    probe = head[start - start % 2 :][:PROBE_BYTES]
    odd, even = probe[1::2], probe[0::2]
    if len(probe) >= 8:  # ASCII in UTF-16 has a 0 in every other byte
        if odd.count(0) > 0.7 * len(odd) and even.count(0) < 0.1 * len(even):
            return "utf-16-le"
        if even.count(0) > 0.7 * len(even) and odd.count(0) < 0.1 * len(odd):
            return "utf-16-be"
    return "utf-8"


def decode_text(content: bytes) -> str:
    """Return content of any encoding as text; bytes that are not UTF-8 are taken for Latin-1."""
    encoding = detect_encoding(content[: 1 << 20])
    if encoding != "utf-8":
        return content.decode(encoding, errors="replace").lstrip("\ufeff").replace("\0", "")
    content = content.removeprefix(codecs.BOM_UTF8).strip(b"\0").removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        is_cut = error.reason == "unexpected end of data"  # only the start of a file is known
        return content[: error.start].decode() if is_cut else content.decode("latin-1")


def skip_zeros(file: Any) -> None:
    """Skip zero bytes at the start of an open file; a log that was truncated while a program wrote it begins so."""
    while head := file.peek():
        n_zeros = len(head) - len(head.lstrip(b"\0"))
        file.read(n_zeros - n_zeros % 2)  # in UTF-16 one may belong to the first character
        if n_zeros < len(head) or n_zeros < 2:
            return


def is_binary(head: bytes) -> bool:
    """Return whether a file that begins with `head` is something else than text."""
    text = decode_text(head)[:PROBE_BYTES]
    text = ANSI_SEQUENCE.sub("", text).replace("\0", "").replace("\b", "")
    return len(CONTROL_CHARACTERS.findall(text)) > MAX_CONTROL_SHARE * len(text)


def iterate_text_lines(file: Any, path: Path, remedy: str) -> Iterator[str]:
    r"""Yield the lines of a file of any encoding, as `plain_line` does. A \r or \b of a progress bar ends a line too.

    `file` has a method `peek`. Empty lines are kept, so that lines keep their numbers.

    Raises:
        ValueError: If the file has too many lines or too long ones; the message ends with `remedy`.
    """
    encoding = detect_encoding(file.peek())
    source = file if encoding == "utf-8" else io.BufferedReader(_Utf8Reader(file, encoding), 1 << 16)
    for line in iterate_lines(source, path, remedy, errors="surrogateescape"):
        if "\b" in line:
            yield from map(plain_line, BACKSPACES.split(line))
        else:
            yield plain_line(line)


def plain_line(line: str) -> str:
    """Return a line without escape sequences and zero bytes, with typographic characters replaced by plain ones."""
    if not line.isascii():
        line = _restore_latin1(line).translate(PLAIN_CHARACTERS)
        if has_foreign_letters(line):
            line = translate_words(line)
    if "\x1b" in line or "[" in line:
        line = ANSI_SEQUENCE.sub("", line)
    if not line.isprintable():
        line = CONTROL_CHARACTERS.sub("", line)
    return line


def _restore_latin1(line: str) -> str:
    """Return a line decoded with surrogateescape; if that left a byte undecoded, the line is Latin-1."""
    try:
        line.encode()
        return line
    except UnicodeEncodeError:
        return line.encode(errors="surrogateescape").decode("latin-1")


class _Utf8Reader(io.RawIOBase):
    """A raw file with the content of `file`, decoded and encoded again as UTF-8."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        self._file, self._pending = file, b""
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            chunk = self._file.read(1 << 16)
            self._pending = self._decoder.decode(chunk, not chunk).replace("\ufeff", "").encode(errors="replace")
            if not chunk:
                break
        size = min(len(buffer), len(self._pending))
        buffer[:size], self._pending = self._pending[:size], self._pending[size:]
        return size
