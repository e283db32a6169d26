"""Files and lines that two commits of a log differ in."""

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import ConfigError
from harness.evidence.judging.run_log import LoggedConfig

COMMIT = re.compile(r"[0-9a-f]{5,40}", re.IGNORECASE)
TIMEOUT_S = 60
SAFE_OPTIONS = ("-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
"""A repository's own settings must not start programs."""
SEED_TERM = r"(?:0x[\da-f]+|-?\d[\d_]*|none|null|[\w.]*(?:seed|rank)\w*)"
SEED_SETTING = re.compile(
    r"(?:,\s*)?(?:--?)?(?<![\w.])"
    r"[\w.]*(?:(?<!\bn_)(?<!\bnum_)seed|random_?state|default_rng|prngkey)\w*"  # a name; n_seeds is a number of them
    r"[\"'\])]*(?:\s*:\s*\w+\s*=|\s*[=:(,]|\s+in\b|\s|,[^()]*\bdefault\s*=)\s*[\"'\[(]*"
    rf"{SEED_TERM}(?:\s*[-+*^,]\s*{SEED_TERM})*(?![\w.]|\s*=)",
    re.IGNORECASE,
)
"""Code or a setting that names a seed and its value."""


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


@dataclass(frozen=True)
class ChangedLines:
    """Lines that two commits differ in, in the order of the files."""

    removed: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def last(self) -> str:
        return (self.removed + self.added)[-1]


def list_changed_lines(repo: Path, base: str, commit: str, table: Path) -> ChangedLines:
    """Return the lines that two commits differ in, without empty lines, comments and the table of runs itself."""
    others = [":(top)"]
    if table.resolve().is_relative_to(repo.resolve()):
        others.append(f":(top,exclude){table.resolve().relative_to(repo.resolve())}")
    removed, added = [], []
    for line in _read_diff(repo, "diff", "--unified=0", "--no-color", base, commit, "--", *others).splitlines():
        if line.startswith(("-", "Binary files")) and not line.startswith("--- "):
            removed.append(line[1:])
        elif line.startswith("+") and not line.startswith("+++ "):
            added.append(line[1:])
    return ChangedLines(_strip_lines(removed), _strip_lines(added))


def _strip_lines(lines: Iterable[str]) -> tuple[str, ...]:
    stripped = map(str.strip, lines)
    return tuple(line for line in stripped if line and not line.startswith("#"))


def is_seed_change(changed: ChangedLines) -> bool:
    """Return whether the changed lines differ in nothing but the value of a seed."""
    removed, added = _remove_seeds(changed.removed), _remove_seeds(changed.added)
    return removed == added and changed.removed != changed.added


def _remove_seeds(lines: Iterable[str]) -> list[str]:
    """Return lines without seeds, comments, quotes and spaces; none of those in which nothing else is left."""
    rest = (re.sub(r"[\s\"']", "", SEED_SETTING.sub("", re.sub(r"\s#.*", "", line))) for line in lines)
    return [line for line in rest if re.search(r"\w", line)]


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
