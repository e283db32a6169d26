import subprocess
from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.evidence.judging.git_changes import (
    find_commit,
    find_repository,
    has_commit,
    is_seed_change,
    list_changed_files,
    list_changed_lines,
)
from harness.evidence.judging.run_log import LoggedConfig, LoggedRun


def commit_files(repo: Path, **files: str) -> str:
    for name, text in files.items():
        (repo / f"{name}.py").write_text(text)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    for words in (("add", "-A"), (*who, "commit", "-qm", "change", "--allow-empty")):
        subprocess.run(["git", "-C", str(repo), *words], check=True)
    found = subprocess.run(["git", "-C", str(repo), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def test_changed_evaluation_code_and_changed_seeds(repo: Path) -> None:
    table = repo / "results.tsv"
    base = commit_files(repo, train="seed = 42\nlr = 1\n", prepare="N = 10\n")
    table.write_text("logged")
    lucky = commit_files(repo, train="seed = 137\nlr = 1\n")
    wider = commit_files(repo, train="seed = 42\nlr = 2\n")
    cheat = commit_files(repo, prepare="N = 1\n")
    same = commit_files(repo)
    assert list_changed_lines(repo, base, lucky, table) == ["seed = 42", "seed = 137"]
    assert is_seed_change(list_changed_lines(repo, base, lucky, table))
    assert not is_seed_change(list_changed_lines(repo, lucky, wider, table))
    assert list_changed_lines(repo, cheat, same, table) == []
    assert not is_seed_change([])
    assert list_changed_files(repo, base, wider, ["prepare.py"]) == []
    assert list_changed_files(repo, base, cheat, ["prepare.py"]) == ["prepare.py"]
    assert find_repository(repo) == repo.resolve()
    assert has_commit(repo, base)
    assert not has_commit(repo, "0" * 40)
    with pytest.raises(ConfigError, match=r"--eval-code: eval.py: not in commit"):
        list_changed_files(repo, base, cheat, ["eval.py"])


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("a1b2c3d", "a1b2c3d"), ("a1b2c3d-dirty", None), ("--output=x", None), ("HEAD", None), ("exp1", None)],
)
def test_only_hashes_are_commits(cell: str, expected: str | None) -> None:
    assert find_commit(LoggedConfig("a", (LoggedRun(1, "a", "a", 1.0, cells={"commit": cell}),)), "commit") == expected
