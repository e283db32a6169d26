"""Files and lines that two commits of a log differ in."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import ConfigError
from harness.evidence.judging.run_log import LoggedConfig

COMMIT = re.compile(r"[0-9a-f]{5,40}", re.IGNORECASE)
TIMEOUT_S = 60
SAFE_OPTIONS = ("-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
"""A repository's own settings must not start programs."""


def find_commit(config: LoggedConfig, column: str) -> str | None:
    """Return the commit in a column of the configuration's runs; None if there is none, as of uncommitted changes."""
    cells = (run.cells.get(column, "").strip() for run in config.runs)
    return next((cell for cell in cells if COMMIT.fullmatch(cell)), None)


def find_repository(folder: Path) -> Path | None:
    """Return the root of the git repository that a folder lies in."""
    try:
        found = _run_git(folder, "rev-parse", "--show-toplevel")
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def has_commit(repo: Path, commit: str) -> bool:
    return _run_git(repo, "cat-file", "-e", f"{commit}^{{commit}}").returncode == 0


def list_changed_files(repo: Path, base: str, commit: str, paths: Sequence[str]) -> list[str]:
    """Return those of the paths, files or folders, that differ between two commits.

    Raises:
        ConfigError: If neither commit has one of the paths, or git fails.
    """
    for path in paths:
        if not any(_read_diff(repo, "ls-tree", "--name-only", one, "--", path) for one in (base, commit)):
            raise ConfigError(f"--eval-code: {path}: not in commit {base}; give a path relative to {repo}")
    return _read_diff(repo, "diff", "--name-only", base, commit, "--", *paths).splitlines()


def list_changed_lines(repo: Path, base: str, commit: str, table: Path) -> list[str]:
    """Return the lines that two commits differ in, without empty lines, comments and the table of runs itself."""
    others = [":(top)"]
    if table.resolve().is_relative_to(repo.resolve()):
        others.append(f":(top,exclude){table.resolve().relative_to(repo.resolve())}")
    text = _read_diff(repo, "diff", "--unified=0", "--no-color", base, commit, "--", *others)
    changed = [line[1:].strip() for line in text.splitlines()
               if line.startswith(("+", "-", "Binary files")) and not line.startswith(("+++ ", "--- "))]  # fmt: skip
    return [line for line in changed if line and not line.startswith("#")]


def is_seed_change(lines: Sequence[str]) -> bool:
    """Return whether all changed lines set a seed."""
    return bool(lines) and all("seed" in line.lower() for line in lines)


def _read_diff(repo: Path, command: str, *arguments: str) -> str:
    safe = ("--no-ext-diff", "--no-textconv") if command == "diff" else ()
    try:
        found = _run_git(repo, command, *safe, *arguments)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"--repo: {repo}: git failed ({error}); check the repository") from error
    if found.returncode:
        raise ConfigError(f"--repo: {repo}: {found.stderr.strip().splitlines()[-1]}")
    return found.stdout


def _run_git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    return subprocess.run(
        ["git", *SAFE_OPTIONS, "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace",
        timeout=TIMEOUT_S, env=environment, check=False,
    )  # fmt: skip
