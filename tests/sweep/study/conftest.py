"""Fixtures of the tests of studies."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(tmp_path_factory) -> Path:
    """An empty folder at the same path for all tests, so that the cache of composed configs serves all of them."""
    folder = tmp_path_factory.getbasetemp() / "queue"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
