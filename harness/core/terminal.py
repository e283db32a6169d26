"""Text for the terminal: it fits the width, and what is to be copied, such as an override, is never broken."""

import io
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress

SILENT_S = 2.0  # a wait that takes longer is announced
DEFAULT_WIDTH = 80  # of paragraphs whose reader is unknown, as in a file

# A word with its quoted parts, which may hold spaces; the quote of "the run's" opens none.
_WORD = re.compile(r"""(?:(?<![\w])'[^'\n]*'(?!\w)|(?<![\w])"[^"\n]*"(?!\w)|`[^`\n]*`|\S)+""")


_start_timers: list[threading.Timer] = []


def find_width() -> int | None:
    """Return the variable COLUMNS if it is set, else the columns of the terminal; None if it is not a terminal."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    with suppress(OSError, ValueError):
        return os.get_terminal_size(1).columns or None
    return None


def paragraph_width() -> int:
    """Return the width that paragraphs are wrapped to."""
    return find_width() or DEFAULT_WIDTH


def wrap_text(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """Return the lines of a paragraph, broken between words only; quoted text is one word.

    Line breaks of `text` are kept. The first line begins with `first`, which may be a title, the others with `rest`.
    An indented line after the first is a command to copy, and stays as it is.
    """
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        if lines and line.startswith(" "):
            lines.append(line)
        else:
            lines += wrap_units(_WORD.findall(line), width, rest if lines else first, rest)
    return lines


def wrap_parts(parts: Iterable[str], width: int, first: str = "", rest: str = "") -> list[str]:
    """Return the lines of `parts` joined by dots, broken between parts where that is possible."""
    *units, last = [*filter(None, parts)] or [""]
    return wrap_units([*(f"{unit} ·" for unit in units), last], width, first, rest)


def wrap_units(units: Iterable[str], width: int, first: str = "", rest: str = "") -> list[str]:
    """Return lines of at most `width` characters, unless one unit is longer."""
    lines, line, is_empty = [], first, True
    for unit in units:
        if not is_empty and len(line) + 1 + len(unit) > width:
            lines.append(line)
            line, is_empty = rest, True
        line, is_empty = line + unit if is_empty else f"{line} {unit}", False
    return [*lines, line.rstrip()]


def print_fitted(*lines: str) -> None:
    """Print lines of a log, each wrapped if a terminal shows it."""
    print(*map(fit_record, lines), sep="\n", flush=True)


def print_notes(notices: Iterable[str]) -> None:
    """Print notices for the user, each on lines of its own."""
    for notice in notices:
        print_fitted(*f"note: {notice}".splitlines())


def fit_record(line: str) -> str:
    """Return a line of a log, wrapped if a terminal shows it; in a file a record stays one line.

    Indented lines that follow it are commands to copy, and stay as they are.
    """
    width = find_width()
    if width is None or max(map(len, line.splitlines()), default=0) <= width:
        return line
    if "\n" in line:
        return "\n".join(wrap_text(line, width, rest="    "))
    parts = line.split(" · ")
    if max(map(len, parts)) + 6 <= width:
        return "\n".join(wrap_parts(parts, width, rest="    "))
    indent = line[: len(line) - len(line.lstrip())]
    return "\n".join(wrap_text(line, width, indent, f"{indent}    "))


def format_labeled(label: str, value: str) -> list[str]:
    """Return `label: value`, with the value in a line of its own, unbroken, if both do not fit into one."""
    line, width = f"{label}: {value}", find_width()
    return [line] if width is None or len(line) <= width else [f"{label}:", f"  {value}"]


def format_choices(choices: Mapping[str, str]) -> str:
    """Return names and what they mean as two columns, for the end of a command's help."""
    lines: list[str] = []
    for name, meaning in choices.items():
        lines += wrap_text(meaning, paragraph_width(), f"  {name:<18} ", " " * 21)
    return "\n".join(lines)


def print_error(text: str) -> None:
    """Print on standard error, wrapped only if that is a terminal: elsewhere a message is one line."""
    if sys.stderr.isatty():
        text = "\n".join(wrap_text(text, paragraph_width(), rest="  "))
    print(text, file=sys.stderr, flush=True)


def announce(text: str) -> None:
    """Say on standard error what takes a while; only in the first of several processes."""
    if int(os.environ.get("RANK", 0)) == 0:
        with suppress(OSError):
            print_error(text)


def announce_slow_start() -> None:
    """Say what the process does if it is still importing its modules after SILENT_S, until `end_start`."""
    timer = threading.Timer(SILENT_S, announce, ["loading the libraries, which takes longer the first time"])
    timer.daemon = True
    _start_timers.append(timer)
    timer.start()


def end_start() -> None:
    """End the time that `announce_slow_start` watches."""
    while _start_timers:
        _start_timers.pop().cancel()


def show_lines_at_once() -> None:
    """Write every line of standard output when it is complete, also to a pipe or a file."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
