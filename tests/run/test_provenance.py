"""Provenance of runs in real Git repositories."""

import subprocess
import sys
import time
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


def test_packages_that_are_not_installed_have_no_version(tmp_path, monkeypatch) -> None:
    """Sweeps of programs do without torch."""
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package"))
    described = provenance.describe_environment(tmp_path)
    assert [name for name in described if name.startswith("version.")] == ["version.numpy"]


def is_dirty(root: Path) -> str:
    return provenance.collect_provenance(torch.device("cpu"), root)["git.is_dirty"]


def test_clean_tree_has_no_diff(repository) -> None:
    assert provenance.diff_from_commit(repository) == ""
    assert is_dirty(repository) == "false"


def test_diff_of_tracked_files_applies_and_keeps_the_index(repository) -> None:
    (repository / "model.py").write_text("width = 128\n")
    (repository / "my parts").mkdir()
    (repository / "my parts" / ":new.py").write_text("rank = 8\n")
    run_git(repository, "add", "my parts")
    (repository / "notes.txt").write_text("untracked\n")
    staged = (repository / ".git" / "index").read_bytes()
    patch = provenance.diff_from_commit(repository)
    assert patch.startswith("# untracked, not in this patch: notes.txt\ndiff --git")
    assert is_dirty(repository) == "true"
    assert (repository / ".git" / "index").read_bytes() == staged
    run_git(repository, "reset", "--hard")
    run_git(repository, "apply", given=patch)
    assert (repository / "model.py").read_text() == "width = 128\n"
    assert (repository / "my parts" / ":new.py").read_text() == "rank = 8\n"


SECRET = "hunter2-hunter2"
FILES_WITH_SECRETS = {
    ".env": f"KEY={SECRET}\n",
    "deploy/.env.local": f"KEY={SECRET}\n",
    "keys/server.PEM": f"{SECRET}\n",
    "id_rsa_work": f"{SECRET}\n",
    "aws_credentials.ini": f"{SECRET}\n",
    "my-secrets/a.txt": f"{SECRET}\n",
    ".netrc": f"machine host password {SECRET}\n",
    "gcp-service-account.json": f"{SECRET}\n",
    "settings.yaml": f"name: x\ndb_password: {SECRET}\n",
    "client.py": f'API_KEY = "{SECRET}"\n',
    "store.py": f"uri = 'http://me:{SECRET}@host'\n",
    "hub.sh": f"export X=hf_{'a' * 34} # {SECRET}\n",
    "key.txt": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n",
}


@pytest.mark.parametrize("is_tracked", [True, False])
def test_files_that_look_like_secrets_are_named_only(repository, is_tracked: bool) -> None:
    for name, text in FILES_WITH_SECRETS.items():
        path = repository / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("empty\n" if is_tracked else text)
    if is_tracked:
        run_git(repository, "add", ".")
        run_git(repository, "commit", "-m", "second")
        for name, text in FILES_WITH_SECRETS.items():
            (repository / name).write_text(text)
    (repository / "model.py").write_text("access_token = read_token()\npassword: str\nwidth = 128\n")
    patch = provenance.diff_from_commit(repository)
    assert SECRET not in patch
    assert "+width = 128" in patch
    assert sum(line.startswith("#") for line in patch.splitlines()) == len(FILES_WITH_SECRETS)
    run_git(repository, "checkout", "model.py")
    run_git(repository, "apply", given=patch)
    assert "width = 128" in (repository / "model.py").read_text()


def test_renamed_secret_stays_out(repository) -> None:
    (repository / ".env").write_text(f"{SECRET}\n" * 9)
    run_git(repository, "add", "-f", ".env")
    run_git(repository, "commit", "-m", "second")
    run_git(repository, "mv", ".env", "settings.txt")
    (repository / "settings.txt").write_text(f"{SECRET}\n" * 10)
    assert SECRET not in provenance.diff_from_commit(repository)


def test_links_are_not_followed(repository, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "private.txt").write_text(SECRET)
    (repository / "model.py").unlink()
    (repository / "model.py").symlink_to(outside / "private.txt")
    (repository / "folder").symlink_to(outside)
    link = tmp_path_factory.mktemp("link") / "project"
    link.symlink_to(repository)
    patch = provenance.diff_from_commit(link)
    assert "-width = 96" in patch
    assert SECRET not in patch


def test_project_in_a_bigger_repository_records_its_own_folder(repository) -> None:
    (repository / "project").mkdir()
    (repository / "project" / "train.py").write_text("lr = 1\n")
    run_git(repository, "add", "project")
    run_git(repository, "commit", "-m", "second")
    (repository / "project" / "train.py").write_text("lr = 2\n")
    (repository / "model.py").write_text("elsewhere\n")
    (repository / "other.txt").write_text("elsewhere\n")
    patch = provenance.diff_from_commit(repository / "project")
    assert "+lr = 2" in patch
    assert "elsewhere" not in patch
    assert "other.txt" not in patch


def test_home_folder_is_no_project(repository, monkeypatch) -> None:
    (repository / "project").mkdir()
    (repository / "project" / "notes.txt").write_text("mine\n")
    (repository / "model.py").write_text("width = 128\n")
    monkeypatch.setenv("HOME", str(repository))
    assert provenance.diff_from_commit(repository) == ""
    assert provenance.diff_from_commit(repository / "project") == ""  # the repository of the home folder
    assert "git.commit" not in provenance.collect_provenance(torch.device("cpu"), repository / "project")


def test_files_that_are_not_utf_8(repository) -> None:
    (repository / "model.py").write_bytes(b"name = 'caf\xe9'\n")
    assert "+name = 'caf\N{REPLACEMENT CHARACTER}'" in provenance.diff_from_commit(repository)


def test_large_and_binary_files_are_only_named(repository) -> None:
    (repository / "model.py").write_text("word\n" * (provenance.MAX_FILE_CHANGES // 5))
    (repository / "weights.bin").write_bytes(bytes(100))
    run_git(repository, "add", ".")
    patch = provenance.diff_from_commit(repository)
    assert "# not in this patch, its changes are large: model.py" in patch
    assert "weights.bin differ" in patch
    assert len(patch) < 500


def test_many_untracked_files_are_counted(repository) -> None:
    for index in range(provenance.MAX_UNTRACKED + 5):
        (repository / f"{index}.txt").touch()
    lines = provenance.diff_from_commit(repository).splitlines()
    assert len(lines) == provenance.MAX_UNTRACKED + 1
    assert lines[-1].endswith("and 5 more")


def test_no_diff_outside_a_repository(tmp_path) -> None:
    assert provenance.diff_from_commit(tmp_path) == ""
    assert "git.commit" not in provenance.collect_provenance(torch.device("cpu"), tmp_path)


def test_command_contains_no_password(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/here/run.py", "tracking.uri=http://me:secret@server:5000", "name=a run"])
    assert provenance.current_command() == "python run.py tracking.uri=http://server:5000 'name=a run'"


def test_file_with_a_long_line_is_named_only(repository) -> None:
    (repository / "model.py").write_text("x" * 20_001)
    assert provenance.diff_from_commit(repository) == (
        "# not in this patch, it has lines of more than 20,000 characters: model.py\n"
    )


def test_search_for_passwords_takes_time_in_proportion_to_the_text() -> None:
    def measure_seconds(length: int) -> float:
        line = ("pwd=" * provenance.MAX_LINE_LENGTH)[: provenance.MAX_LINE_LENGTH] + "\n"
        start = time.process_time()
        assert not provenance.PRIVATE_TEXT.search(line * (length // len(line)))
        return time.process_time() - start

    assert measure_seconds(200_000) < 8 * max(0.02, measure_seconds(60_000))
