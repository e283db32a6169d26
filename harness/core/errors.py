"""Errors whose message is for the user, and the hint that ends many of them."""

import difflib
import errno
from collections.abc import Iterable


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
