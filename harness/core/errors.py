"""Errors whose message is for the user, and the hint that ends many of them."""

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """Invalid input; commands print the message and exit with status 2."""


class RunFailedError(Exception):
    """A run or a sweep that did not complete; commands print the message and exit with status 1."""


def did_you_mean(name: str, names: Iterable[object]) -> str:
    """Return "; did you mean ...?" with the closest of `names`, or an empty string if none is close."""
    close = difflib.get_close_matches(name, [str(n) for n in names], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
