"""Detect broken text encoding, and repair what has only one possible original."""

import re

_C1_CONTROLS = "\x80-\x84\x86-\x9f"  # U+0085 is left out: on its own it may be a line end
# UTF-8 continuation bytes, as Latin-1 and as Windows-1252 decode them
_CP1252_CONTINUATIONS = "".join(bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xC0))
_CONTINUATION = rf"[{_C1_CONTROLS}\x85{re.escape(_CP1252_CONTINUATIONS)}]"
# UTF-8 decoded as Windows-1252 or Latin-1, such as Ã© and â€™, and Windows-1252 decoded as Latin-1. The look-behind
# protects words in capitals, such as Portuguese MANHÃ.
MISREAD = re.compile(
    rf"[ÂÃ][{_C1_CONTROLS}\x85]|(?<![A-ZÀ-Þ])[ÂÃ]{_CONTINUATION}|â[€‚„™œ\x80\x82\x84\x99\x9c]{_CONTINUATION}"
    rf"|ð[Ÿ\x9f]{_CONTINUATION}{{2}}|[{_C1_CONTROLS}]"
    r"|(?:(?<=Ã[ƒ‚¢°])|(?<=â‚¬))(?:Å[’“\xa0¡½¾¸]|Æ’|Ë[†œ])"  # the second half of what was misread twice
)
MISREAD_START = re.compile(rf"[ÂÃâð{_C1_CONTROLS}]")  # first character of every MISREAD; ten times as fast to search
# Replacement characters (misread or not), lone surrogates, control characters, and misread characters that lack a part.
BROKEN = re.compile(rf"[\ufffd\ud800-\udfff\x00-\x08\x0e-\x1f\x7f{_C1_CONTROLS}]|ï¿½|â€|ðŸ")


def repair_encoding(text: str) -> str:
    """Decode misread characters again, repeatedly if they were misread several times."""
    while MISREAD_START.search(text) and (better := MISREAD.sub(_decode_match, text)) != text:
        text = better
    return text


def has_broken_encoding(text: str) -> bool:
    """Return whether `text` shows signs of broken encoding. After `repair_encoding` only irreparable ones are left."""
    return BROKEN.search(text) is not None


def _decode_match(found: re.Match[str]) -> str:
    # C1 controls come from a Latin-1 decoder, all other characters of a match exist in Windows-1252.
    content = b"".join(c.encode("latin-1" if "\x80" <= c <= "\x9f" else "cp1252") for c in found.group())
    try:
        return content.decode("cp1252" if len(content) == 1 else "utf-8")
    except UnicodeDecodeError:
        return found.group()
