"""Mistakes of new users: exit status 2, a message of one or two lines that names what is wrong, and nothing written."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.core import paths
from tests import mistakes
from tests.conftest import drop_announcements

TIMED = {"run -m sweep.storage=nosuch://host/db sweep.dry_run=true", "run -m lora.ranks=2,4", "run -m lora.rank=0,4"}
"""Mistakes that are found after something was built."""
CASES = [
    pytest.param(*case, marks=[pytest.mark.slow] if number % 5 or case[0] in TIMED or "model=hf" in case[0] else [])
    for cases in mistakes.JOURNEYS.values()
    for number, case in enumerate(cases)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """Return a folder with a user's files, good and bad ones."""
    folder = tmp_path_factory.mktemp("mistakes")
    mistakes.write_files(folder)
    (folder / ".cache").symlink_to(cache_dir)
    return folder


def list_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if ".cache" not in path.parts)


@pytest.mark.parametrize(("line", "part"), CASES)
def test_mistake_gets_one_helpful_message(line, part, folder, monkeypatch, capsys) -> None:
    arguments = shlex.split(line)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["plateau", *arguments])
    monkeypatch.setattr(paths, "is_checkout", lambda: False)  # results go to the current folder
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    before = list_files(folder)
    try:
        status = cli.main(arguments)
    except SystemExit as ended:
        status = ended.code
    message = drop_announcements(capsys.readouterr().err).strip()
    assert status == 2
    assert part in message
    assert "Traceback" not in message
    assert message.count("\n") <= 1
    assert list_files(folder) == before


def test_each_journey_has_thirty_mistakes() -> None:
    assert [len(set(cases)) for cases in mistakes.JOURNEYS.values()] == [30] * 5
