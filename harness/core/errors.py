"""Errors whose message is for the user, and the hint that ends many of them."""

import difflib
import errno
from collections.abc import Iterable


class ConfigError(Exception):
    """Invalid input; commands print the message and exit with status 2."""


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
    close = difflib.get_close_matches(name, [str(n) for n in names], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
