"""Files that are not UTF-8: their encoding, and the advice."""

import random
import struct

import pytest

from harness.data.encodings import find_wide_encoding, suggest_conversion

TEXT = "A naïve café\nwith “quotes” and more than one line of plain words.\n" * 3


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-16", "utf-16"), ("utf-16-le", "utf-16le"), ("utf-16-be", "utf-16be"), ("utf-32", "utf-32"), ("utf-8", "")],
)
def test_wide_encodings_are_named(encoding: str, expected: str) -> None:
    assert find_wide_encoding(TEXT.encode(encoding)) == expected


def test_samples_and_program_files_are_no_wide_text() -> None:
    generator = random.Random(0)
    samples = struct.pack("<500h", *(generator.randrange(-40, 40) for _ in range(500)))
    assert find_wide_encoding(samples) == ""
    assert find_wide_encoding(b"\x7fELF\x02\x01\x01" + bytes(500)) == ""


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (TEXT.encode("cp1252"), "for example with iconv -f windows-1252 -t utf-8"),
        ("Ça été déjà vu là-bas, près du café".encode("latin-1"), "for example with iconv -f latin1 -t utf-8"),
        ("これはテストです。\n".encode("shift_jis"), "find its encoding (file -i FILE guesses)"),
        ("Это текст, который читают\n".encode("koi8-r"), "find its encoding (file -i FILE guesses)"),
        ((TEXT * 2).encode() + b"\xe9 damage\n", "all but one byte is; repair them, or drop them with iconv -c"),
    ],
)
def test_the_advice_fits_the_bytes(content: bytes, advice: str) -> None:
    assert find_wide_encoding(content) == ""
    assert advice in suggest_conversion(content)
