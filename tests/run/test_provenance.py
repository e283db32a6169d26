"""Provenance of runs in real Git repositories."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.run import provenance


def run_git(folder: Path, *arguments: str, given: str = "") -> str:
    identity = ("-c", "user.name=me", "-c", "user.email=me@here")
    command = ["git", "-C", folder, *identity, *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path) -> Path:
    """Return a repository with one commit of one file."""
    (tmp_path / "model.py").write_text("width = 96\n")
    run_git(tmp_path, "init")
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "-m", "first")
    return tmp_path


def is_dirty(root: Path) -> str:
    return provenance.collect_provenance(torch.device("cpu"), root)["git.is_dirty"]


def test_clean_tree_has_no_diff(repository) -> None:
    assert provenance.diff_from_commit(repository) == ""
    assert is_dirty(repository) == "false"


def test_diff_includes_new_files_and_keeps_the_index(repository) -> None:
    staged = (repository / ".git" / "index").read_bytes()
    ran = {"model.py": "width = 128\n", "my parts/:new.py": "rank = 8\n"}
    (repository / "my parts").mkdir()
    for name, text in ran.items():
        (repository / name).write_text(text)
    patch = provenance.diff_from_commit(repository)
    assert is_dirty(repository) == "true"
    assert (repository / ".git" / "index").read_bytes() == staged
    run_git(repository, "checkout", ".")
    run_git(repository, "clean", "-df")
    run_git(repository, "apply", given=patch)
    assert {name: (repository / name).read_text() for name in ran} == ran


def test_files_that_are_not_utf_8(repository) -> None:
    (repository / "model.py").write_bytes(b"name = 'caf\xe9'\n")
    assert "+name = 'caf\N{REPLACEMENT CHARACTER}'" in provenance.diff_from_commit(repository)


def test_large_and_binary_files_are_only_named(repository) -> None:
    (repository / "corpus.txt").write_text("word\n" * (provenance.MAX_NEW_BYTES // 5 + 1))
    (repository / "weights.bin").write_bytes(bytes(100))
    patch = provenance.diff_from_commit(repository)
    assert "# new, not in this patch: corpus.txt" in patch
    assert "weights.bin differ" in patch
    assert len(patch) < 500


def test_no_diff_outside_a_repository(tmp_path) -> None:
    assert provenance.diff_from_commit(tmp_path) == ""
    assert "git.commit" not in provenance.collect_provenance(torch.device("cpu"), tmp_path)


def test_command_contains_no_password(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/here/run.py", "tracking.uri=http://me:secret@server:5000", "name=a run"])
    assert provenance.current_command() == "python run.py tracking.uri=http://server:5000 'name=a run'"
