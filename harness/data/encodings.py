"""Name the encoding of a file that is not UTF-8, and what converts it."""

import codecs

PROBE_BYTES = 4096
MAX_WESTERN_SHARE = 0.25  # of letters that ASCII lacks, in text of Western Europe
MIN_UTF8_SHARE = 0.9  # of the characters that ASCII lacks, in a file of UTF-8 with damage
MIN_PRINTABLE_SHARE = 0.95  # of text; samples of sound have zeros, too
WIDE_MARKS = {  # UTF-32 first, whose mark begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


def find_wide_encoding(content: bytes) -> str:
    """Return utf-16, utf-16le, utf-16be or utf-32 for text with several bytes per character, else an empty string."""
    for mark, name in WIDE_MARKS.items():
        if content.startswith(mark):
            return name
    probe = content[:PROBE_BYTES]
    even, odd = probe[::2], probe[1::2]
    if len(probe) < 8 or b"\0" not in probe:
        return ""
    # of Latin letters, every other byte is 0
    zeros = even.count(0) / len(even), odd.count(0) / len(odd)
    name = "utf-16be" if zeros[0] > 0.5 > 10 * zeros[1] else "utf-16le" if zeros[1] > 0.5 > 10 * zeros[0] else ""
    text = probe.decode(name, errors="ignore") if name else ""
    is_text = sum(character.isprintable() or character.isspace() for character in text) > MIN_PRINTABLE_SHARE * len(
        text
    )
    return name if is_text else ""


def suggest_conversion(content: bytes) -> str:
    """Return what to do with bytes that are not UTF-8 and not `find_wide_encoding` either."""
    valid = sum(not character.isascii() for character in content.decode(errors="ignore"))
    invalid = content.decode(errors="replace").count("\ufffd") - content.count("\ufffd".encode())
    if valid * (1 - MIN_UTF8_SHARE) > invalid * MIN_UTF8_SHARE:
        bytes_text = "one byte" if invalid == 1 else f"{invalid} bytes"
        return f"all but {bytes_text} is; repair them, or drop them with iconv -c -f utf-8 -t utf-8 FILE > NEW"
    others = sum(byte > 0x7F for byte in content)
    if others > MAX_WESTERN_SHARE * len(content):
        return "find its encoding (file -i FILE guesses), then iconv -f ENCODING -t utf-8 FILE > NEW"
    name = "windows-1252" if any(0x80 <= byte <= 0x9F for byte in content) else "latin1"
    return f"convert it, for example with iconv -f {name} -t utf-8 FILE > NEW"
