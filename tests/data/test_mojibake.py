"""Repair of misread text, and detection of irreparable text."""

import pytest

from harness.data.mojibake import has_broken_encoding, repair_encoding

MISREAD_AS = {
    "cp1252": lambda content: "".join(
        chr(byte) if byte in b"\x81\x8d\x8f\x90\x9d" else bytes([byte]).decode("cp1252") for byte in content
    ),
    "latin-1": lambda content: content.decode("latin-1"),
    "mac_roman": lambda content: content.decode("mac_roman"),
    "cp437": lambda content: content.decode("cp437"),
    "cp1251": lambda content: content.decode("cp1251", "replace"),
}
LANGUAGES = [
    "L’été à Noël, ça coûte 5 €", "Größe über „Zitat“", "¿Qué tal, señor?", "Não, amanhã à noite",
    "Zażółć gęślą jaźń",
    "Příliš žluťoučký kůň úpěl", "İstanbul'da yağmur şıp şıp", "Tiếng Việt có dấu", "Привет, мир! Всё «хорошо»?",
    "Καλημέρα κόσμε", "日本語のテキストです。", "你好，世界！", "안녕하세요 세계",
    "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया",
    "∑ ∞ √ α ≤ → ★ ✓ ─",
]  # fmt: skip
SOUND = [
    "“Spaß”, ‚Maß‘, „Ä“ und „Ö“",
    "Spaß”",
    "café”… fiancé”—she",
    "été\xa0»",
    "5 Å\xa0resolution, 3 Å³",
    "MANHÃ… AMANHÃ…",
    "ÚŽASNÉ",
    "ÚŽITOK",
    "evenášši.no",
    "Ça coûte 5\xa0€",
    "Ø½ pipe, Ø± 3",
    "2√π + a√b",
    "├── src\n│   └── main",
    "Γ(x) ≤ ∫",
    "Рёв, Сёла, ВГ",
    "Є й ї: «їжак»",
    "ÂME Â la",
    "Ð is edh; Þ is thorn",
    "GRÜßE – ÜBER… ÄÖ",
    *LANGUAGES,
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
    repaired = repair_encoding(misread)
    is_lost = "\ufffd" in misread or "ï¿½" in misread  # Windows-1252 lacks five bytes
    assert repaired == text or (is_lost and has_broken_encoding(repaired))


@pytest.mark.parametrize("misread_as", MISREAD_AS)
def test_repair_encoding_restores_lines_in_any_language(misread_as: str) -> None:
    decode = MISREAD_AS[misread_as]
    for text in LANGUAGES:
        misread = decode(text.encode())
        if "\ufffd" not in misread:  # Windows-1251 lacks one byte
            assert repair_encoding(misread) == text
            assert repair_encoding(f"{misread}\nsound – “text”\n{misread}") == f"{text}\nsound – “text”\n{text}"


@pytest.mark.parametrize(
    ("misread", "text"),
    [
        ("â€œSoâ€\ufffd, she said", "“So”, she said"),  # a reader that replaces what Windows-1252 lacks
        ("ï»¿The start", "The start"),
        ("voilÃ  tout, Ã  la carte", "voilà tout, à la carte"),  # the second byte had become a space
        ("sound “quotes” and a â†’ b â‰¤ c", "sound “quotes” and a → b ≤ c"),
    ],
)
def test_repair_encoding_of_single_sequences(misread: str, text: str) -> None:
    assert repair_encoding(misread) == text


def test_repair_encoding_of_windows_1252_read_as_latin_1() -> None:
    assert repair_encoding("it\x92s \x93so\x94") == "it’s “so”"


@pytest.mark.parametrize("text", SOUND)
def test_repair_encoding_keeps_sound_text(text: str) -> None:
    assert repair_encoding(text) == text
    assert not has_broken_encoding(text)


@pytest.mark.parametrize("text", ["caf\ufffd", "a\x00b", "\x1b[31mred", "Meetâ€s", "\x81"])
def test_irreparable_text_has_broken_encoding(text: str) -> None:
    assert has_broken_encoding(repair_encoding(text))
