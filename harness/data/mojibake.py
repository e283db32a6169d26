"""Detect broken text encoding, and repair what has only one possible original.

A line that consists of misread characters as a whole is decoded as a whole, in any language. In all other lines, the
sequences are decoded one by one that do not occur in sound text.
"""

import codecs
import re

_C1_CONTROLS = "\x80-\x84\x86-\x9f"  # U+0085 is left out: on its own it may be a line end
# UTF-8 continuation bytes, as Latin-1 and as Windows-1252 decode them
_CP1252_CONTINUATIONS = "".join(bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xC0))
_CONTINUATION = rf"[{_C1_CONTROLS}\x85{re.escape(_CP1252_CONTINUATIONS)}]"
# UTF-8 decoded as Windows-1252 or Latin-1, such as Ã© and â€™, and Windows-1252 decoded as Latin-1. The look-behind
# protects words in capitals, such as Portuguese MANHÃ.
MISREAD = re.compile(
    rf"[ÂÃ][{_C1_CONTROLS}\x85]|(?<![A-ZÀ-Þ])[ÂÃ]{_CONTINUATION}|â[€‚„†‡ˆ‰Œ˜™œž\x80\x82\x84\x86-\x89\x8c\x98\x99\x9c\x9e]{_CONTINUATION}"
    rf"|ð[Ÿ\x9f]{_CONTINUATION}{{2}}|[{_C1_CONTROLS}]"
    r"|(?:(?<=Ã[ƒ‚¢°])|(?<=â‚¬))(?:Å[’“\xa0¡½¾¸]|Æ’|Ë[†œ])"  # the second half of what was misread twice
)
MISREAD_START = re.compile(rf"[ÂÃâð{_C1_CONTROLS}]")  # first character of every MISREAD; ten times as fast to search
MISREAD_BOM = "ï»¿"  # a byte order mark, as Windows-1252
LOST_QUOTE = re.compile(r"(“[^“”\n]*)â€\ufffd")  # Windows-1252 has no character for the last byte of a closing quote
# The no-break space that ended an à has become a space; no word has a capital after small letters.
LOST_SPACE = re.compile(r"(?<=[a-zß-ÿ])Ã (?= )|(?<![^\s’'])Ã (?= [a-zß-ÿ])|(?<=[a-zß-ÿ])Ã(?= )")

# What may follow a letter in sound text, of the characters that UTF-8 bytes after the first are misread as.
_USUAL_FOLLOWERS = "ŠšŽžŒœŸƒ…’‘“”–—«»‹›™®©°•¡¿\xa0\xad¹²³´·±¼½¾ªº"
_UNUSUAL = rf"(?![{_USUAL_FOLLOWERS}]){_CONTINUATION}"
# Encodings in which UTF-8 is misread, and what in a line tells that it was: sequences that sound text does not have.
MISREAD_LINES = {
    "cp1252": rf"[Â-ô]{_UNUSUAL}|[à-ï]{_CONTINUATION}{_UNUSUAL}|(?<=[a-zß-ÿ])[Â-Þ]{_CONTINUATION}",
    "mac_roman": r"‚Ä|(?<=[a-z])√",
    "cp437": r"ΓÇ|(?<=[a-z])├",
    "cp1251": r"вЂ|(?<=[a-z])[ВГ]",
}
MIN_CHARACTERS = 4  # of a misread line, which tell as much; in Windows-1252 capitals before punctuation may be sound
_MISREAD_LINES = {codec: re.compile(pattern) for codec, pattern in MISREAD_LINES.items()}
_NON_ASCII_LINE = re.compile(r"[^\n]*[^\x00-\x7f][^\n]*")
# Replacement characters (misread or not), lone surrogates, control characters, and misread characters that lack a part.
BROKEN = re.compile(rf"[\ufffd\ud800-\udfff\x00-\x08\x0e-\x1f\x7f{_C1_CONTROLS}]|ï¿½|â€|ðŸ")


def repair_encoding(text: str) -> str:
    """Decode misread characters again, repeatedly if they were misread several times."""
    if text.isascii():
        return text
    while (better := _repair_lines(text)) != text or (better := _repair_sequences(text)) != text:
        text = better
    return text


def _repair_lines(text: str) -> str:
    return _NON_ASCII_LINE.sub(_decode_line, text)


def _repair_sequences(text: str) -> str:
    text = text.replace(MISREAD_BOM, "")
    if MISREAD_START.search(text):
        text = MISREAD.sub(_decode_match, LOST_SPACE.sub("à", text))
    return LOST_QUOTE.sub(r"\1”", text) if "â€\ufffd" in text else text


def _decode_line(found: re.Match[str]) -> str:
    """Return a line decoded again if all of it can be, and if it has sequences that sound text does not have."""
    line = found.group()
    for codec, pattern in _MISREAD_LINES.items():
        try:
            decoded = line.encode(codec, _C1_HANDLER).decode()
        except UnicodeError:
            continue
        is_long = codec != "cp1252" and sum(not character.isascii() for character in decoded) >= MIN_CHARACTERS
        if is_long or pattern.search(line):
            return decoded
    return line


def _encode_c1_controls(error: UnicodeError) -> tuple[bytes, int]:
    """Encode C1 controls, for which Windows-1252 lacks characters, as Latin-1 does."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    if any(not "\x80" <= character <= "\x9f" for character in part):
        raise error
    return part.encode("latin-1"), error.end


_C1_HANDLER = "plateau_c1_controls"
codecs.register_error(_C1_HANDLER, _encode_c1_controls)


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
