"""Errors whose message is for the user, and the hint that ends many of them."""

import difflib
import errno
import os
import re
import traceback
from collections.abc import Iterable

MAX_MESSAGE = 200
"""Characters of an exception's message, which may hold a whole tensor."""
CONTROL_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])|[\x00-\x08\x0e-\x1b\x7f]")
"""Escape sequences of terminals, as of ECMA-48, and control characters other than white space."""


class ConfigError(Exception):
    """Invalid input; commands print the message and exit with status 2."""


class UntrustedError(ConfigError):
    """A configuration names a component that is neither ours nor trusted."""


class SettingError(ValueError):
    """An invalid value of the setting `key`, found where only part of the configuration is known."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key, self.problem = key, problem


class RunFailedError(Exception):
    """A run or a sweep that did not complete; commands print the message and exit with status 1."""


WRONG_PATH_ERRORS = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip
"""Errno values that a different path or file owner would fix."""


def explain_path_error(error: BaseException) -> str:
    """Return a message that names the file, if `error` says that its path is at fault; else an empty string."""
    if not isinstance(error, OSError) or error.filename is None or error.errno not in WRONG_PATH_ERRORS:
        return ""
    return f"{error.filename}: {(error.strerror or str(error)).lower()}; check the path"


def describe_exception(error: BaseException) -> str:
    """Return type and message of any exception in one short line, or where it was raised if it has no message."""
    name, message = type(error).__name__, shorten_message(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    if message or not frames:
        return shorten_message(f"{name}: {message}" if message else name)
    return f"{name} at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"


def shorten_message(text: str) -> str:
    """Return the first line of a message, without escape sequences, and without the middle if it is long."""
    lines = CONTROL_CODES.sub("", text).splitlines()
    line = next((stripped for one in lines if (stripped := one.strip())), "")
    n_last = MAX_MESSAGE // 4
    return line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - n_last - 3]} … {line[-n_last:]}"


class DamageError(ValueError):
    """A damaged file. The message names it."""


def did_you_mean(name: str, names: Iterable[object]) -> str:
    """Return "; did you mean ...?" with the closest of `names`, or an empty string if none is close."""
    known = [str(n) for n in names]
    close = [n for n in known if _ignore_spelling(n) == _ignore_spelling(name)]
    close = close or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _ignore_spelling(name: str) -> str:
    """Return a name without case, and without what separates its words: AdamW, adam_w and adamw are the same."""
    return name.lower().replace("_", "").replace("-", "")
