"""Broken encoding: what shows it, and what of it is mended because only one thing can have been meant."""

import re

_C1_CONTROLS = "\x80-\x84\x86-\x9f"
_CP1252_CONTINUATIONS = "".join(bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xC0))
"""What UTF-8 characters go on with, as Latin-1 and as Windows-1252 reads it; U+0085 alone may be an end of line."""
_CONTINUATION = rf"[{_C1_CONTROLS}\x85{re.escape(_CP1252_CONTINUATIONS)}]"
MISREAD = re.compile(
    rf"[ÂÃ][{_C1_CONTROLS}\x85]|(?<![A-ZÀ-Þ])[ÂÃ]{_CONTINUATION}|â[€‚„™œ\x80\x82\x84\x99\x9c]{_CONTINUATION}|ð[Ÿ\x9f]{_CONTINUATION}{{2}}|[{_C1_CONTROLS}]"
    r"|(?:(?<=Ã[ƒ‚¢°])|(?<=â‚¬))(?:Å[’“\xa0¡½¾¸]|Æ’|Ë[†œ])"  # the second half of what was misread twice
)
"""UTF-8 read as Windows-1252 or Latin-1, such as Ã© and â€™, and Windows-1252 read as Latin-1; but MANHÃ… stays, which
is Portuguese."""
MISREAD_START = re.compile(rf"[ÂÃâð{_C1_CONTROLS}]")
"""What each misreading begins with; looked for first, since that is ten times as fast."""
BROKEN = re.compile(rf"[\ufffd\ud800-\udfff\x00-\x08\x0e-\x1f\x7f{_C1_CONTROLS}]|ï¿½|â€|ðŸ")
"""A replacement character, misread or not, half a pair of UTF-16 (a surrogate), control characters, and misread
characters of which a part is lost."""


def repair_encoding(text: str) -> str:
    """With what was misread read anew, as often as it was misread."""
    while MISREAD_START.search(text) and (better := MISREAD.sub(_decode_match, text)) != text:
        text = better
    return text


def has_broken_encoding(text: str) -> bool:
    """Whether `text` holds what shows broken encoding; what is mended holds only what no one can mend."""
    return BROKEN.search(text) is not None


def _decode_match(found: re.Match[str]) -> str:
    content = b"".join(map(_encode_character, found.group()))
    try:
        return content.decode("cp1252" if len(content) == 1 else "utf-8")
    except UnicodeDecodeError:
        return found.group()


def _encode_character(character: str) -> bytes:
    return character.encode("latin-1" if "\x80" <= character <= "\x9f" else "cp1252")
