"""Hydra configures logging for its jobs; the tests of others keep theirs."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    loggers = [one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    disabled = [one for one in loggers if one.disabled]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for one in loggers:
        one.disabled = one in disabled
