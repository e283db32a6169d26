"""Explain in one line why a program failed, from its exit and the end of its log."""

import re
import signal
from pathlib import Path

from harness.core.credentials import hide_credentials_in_text
from harness.core.shortage import describe_full_disk
from harness.sweep.programs.command.process import ProgramExit

TAIL_BYTES = 1 << 16
MAX_REASON_CHARACTERS = 300
SIGNAL_TEXTS = {
    signal.SIGKILL: "killed by SIGKILL (out of memory?)",
    signal.SIGSEGV: "segmentation fault (SIGSEGV)",
    signal.SIGBUS: "bus error (SIGBUS; shared memory in /dev/shm may be full)",
    signal.SIGABRT: "aborted (SIGABRT)",
    signal.SIGILL: "illegal instruction (SIGILL); it may be built for another processor",
    signal.SIGFPE: "arithmetic error (SIGFPE)",
    signal.SIGTERM: "ended by SIGTERM",
    signal.SIGINT: "interrupted by SIGINT",
    signal.SIGHUP: "ended by SIGHUP",
    signal.SIGPIPE: "ended by SIGPIPE",
    signal.SIGXCPU: "CPU time limit exceeded (SIGXCPU)",
    signal.SIGXFSZ: "file size limit exceeded (SIGXFSZ)",
}
STATUS_TEXTS = {126: "a command may not be executed", 127: "a command was not found"}  # of shells
OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|\b(?:CUDA|HIP|MPS|XPU)\b.{0,40}out of memory|\bOut of memory\b|CU\w+_ALLOC_FAILED"
    r"|RESOURCE_EXHAUSTED|\bMemoryError\b|\bbad_alloc\b|an(?:no|')t allocate memory|not enough memory"
    r"|Unable to allocate .* for an array|exceeded memory limit|heap out of memory|out-of-memory handler"
    r"|\boom.kill|killed by signal: Killed"
)
ERROR_LINE = re.compile(
    r"(?:fatal |unhandled |uncaught )?(?:error|exception|panic)\b.*\S|.*(?:\berror: |\bfatal: | panicked at ).*"
    r"|.*what\(\): .*|exception in thread .*|.*: (?:.* )?(?:not found|no such file or directory)\b.*",
    re.IGNORECASE,
)
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?::(?:\s.*)?)?")  # the last line of a traceback
TRACEBACK = "Traceback (most recent call last)"
# Exceptions of launchers: they say only that another process failed.
LAUNCHER_EXCEPTIONS = ("ChildFailedError", "CalledProcessError", "ProcessRaisedException", "ProcessExitedException")
TERMINAL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
DECORATION = re.compile(r"^(?:\[(?:rank)?\d+\]:\s?)+|[│╭╰╮╯]|[\x00-\x08\x0b-\x1f]")
ERROR_LINES_FROM_END = 50


def describe_failure(program_exit: ProgramExit, log_path: Path) -> str:
    """Return why a program failed: the line of its log that says so, and how it ended."""
    lines = read_last_lines(log_path)
    exception = find_exception_line(lines)
    ending = describe_exit(program_exit.code)
    candidates = [exception] if exception else list(reversed(lines[-ERROR_LINES_FROM_END:]))
    memory = next((line.strip() for line in candidates if OUT_OF_MEMORY.search(line)), "")
    error = exception or next((line.strip() for line in candidates if ERROR_LINE.fullmatch(line.strip())), "")
    if memory:
        reason = f"out of memory: {_shorten(memory)} ({ending})"
    elif error:
        reason = f"{_shorten(error)} ({ending})"
    elif lines:
        reason = f"{ending}; its last line: {_shorten(lines[-1].strip())}"
    else:
        reason = f"{ending}, without any output"
    return hide_credentials_in_text(reason)


def describe_exit(code: int) -> str:
    """Return in words how a program ended; shells report the signal of a command as 128 + its number."""
    number = -code if code < 0 else code - 128
    text = SIGNAL_TEXTS.get(number)  # type: ignore[call-overload]  # signals are numbers
    if code < 0:
        return text or f"ended by {signal.strsignal(number) or 'signal'} (signal {number})"
    details = text or STATUS_TEXTS.get(code)
    return f"exit status {code}, {details}" if details else f"exit status {code}"


def find_disk_shortage(program_exit: ProgramExit, folder: Path) -> str:
    """Return that the disk of `folder` is full if a program has failed, which then is not its fault."""
    return describe_full_disk(folder) if program_exit.code else ""


def read_last_lines(log_path: Path) -> list[str]:
    """Return the last lines of a log without colors and frames; those that a progress bar has overwritten are lines."""
    try:
        with log_path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    text = TERMINAL_SEQUENCE.sub("", text)
    lines = (DECORATION.sub("", line).rstrip() for line in re.split(r"\r\n|\n|\r", text))
    return [line for line in lines if line.strip()]


def find_exception_line(lines: list[str]) -> str:
    """Return the last line of the last Python traceback, or of one that is not a launcher's; else an empty string."""
    starts = [index for index, line in enumerate(lines) if TRACEBACK in line]
    found = [exception for start in starts if (exception := _find_traceback_end(lines[start + 1 :]))]
    causes = [line for line in found if not line.partition(":")[0].endswith(LAUNCHER_EXCEPTIONS)]
    return (causes or found or [""])[-1]


def _find_traceback_end(lines: list[str]) -> str:
    """Return the first line that is not indented, if that is an exception, or else an empty string."""
    for line in lines:
        if TRACEBACK in line:
            return ""
        if not line.startswith((" ", "\t", "─")):
            return line.strip() if EXCEPTION.fullmatch(line.strip()) else ""
    return ""


def _shorten(line: str) -> str:
    return line if len(line) <= MAX_REASON_CHARACTERS else f"{line[: MAX_REASON_CHARACTERS - 1]}…"
