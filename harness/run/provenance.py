"""Provenance of a run: code, command, machine and package versions."""

import getpass
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from harness.core.paths import project_dir, run_command
from harness.tracking.store_uri import hide_credentials

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "hydra-core", "optuna", "mlflow")
MAX_NEW_BYTES = 1_000_000
"""Total size of the new files that a patch includes."""


@cache
def collect_provenance(device: torch.device, root: Path) -> Mapping[str, str]:
    """Return tags that describe the machine, the versions, and the commit of the code under `root`."""
    described = {
        "host": socket.gethostname(),
        "user": _user_name(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": _device_name(device),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "not set"),
        **{f"version.{package}": version(package) for package in PACKAGES},
    }
    commit = _run_git(root, "rev-parse", "HEAD")
    if commit:
        described["git.commit"] = commit.decode().strip()
        described["git.is_dirty"] = str(bool(_run_git(root, "status", "--porcelain", "--", "."))).lower()
    return described


def write_provenance(folder: Path, cfg: DictConfig, command: str) -> None:
    """Write the resolved configuration, the command and the uncommitted changes to a run's folder."""
    hidden = deepcopy(cfg)
    hidden.tracking.uri = cfg.tracking.uri and hide_credentials(cfg.tracking.uri)
    OmegaConf.save(hidden, folder / "config.yaml", resolve=True)
    (folder / "command.txt").write_text(command + "\n")
    if changes := diff_from_commit(project_dir()):
        (folder / "diff.patch").write_text(changes)


def current_command() -> str:
    """Return the command line of this process, without passwords in addresses."""
    program = os.path.basename(sys.argv[0]) or "python"
    words = [program, *map(hide_credentials, sys.argv[1:])]
    return shlex.join(["python", *words] if program.endswith(".py") else words)


def format_command(overrides: Iterable[str]) -> str:
    """Return the command line that starts a run with `overrides`."""
    return shlex.join([*run_command(), *overrides])


@cache
def diff_from_commit(root: Path) -> str:
    """Return a patch from the commit to the files under `root`, new files included, large ones by name only.

    It is empty if there is no change or no commit. Cached, since a process keeps running the code that it has loaded.
    """
    index = _run_git(root, "rev-parse", "--git-path", "index")
    if index is None:
        return ""
    try:
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(root / os.fsdecode(index.rstrip(b"\n")), folder)  # do not change the user's index
            return _make_patch(root, {"GIT_INDEX_FILE": copy})
    except OSError:
        return ""


def _make_patch(root: Path, index: dict[str, str]) -> str:
    """Return the patch of tracked files and of new files, which are added to the copied `index` first."""
    small, others = _list_new_files(root)
    entering = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
    if _run_git(root, *entering, given=b"\0".join(small), environment=index) is None:
        others += small
    changes = _run_git(root, "diff", "--no-color", "--no-ext-diff", "HEAD", "--", ".", environment=index) or b""
    named = b"".join(b"# new, not in this patch: %s\n" % name for name in others)
    return (named + changes).decode(errors="replace")


def _list_new_files(root: Path) -> tuple[list[bytes], list[bytes]]:
    """Return the names of untracked files: the smallest, up to MAX_NEW_BYTES together, and the others."""
    names = (_run_git(root, "ls-files", "--others", "--exclude-standard", "-z") or b"").split(b"\0")[:-1]
    paths = {name: os.path.join(os.fsencode(root), name) for name in names}
    sizes = {name: os.lstat(path).st_size for name, path in paths.items()}
    small: list[bytes] = []
    others: list[bytes] = []
    total = 0
    for name in sorted(names, key=lambda name: sizes[name]):
        total += sizes[name]
        is_folder = name.endswith(b"/")  # a nested repository
        fits = total <= MAX_NEW_BYTES and not is_folder and os.access(paths[name], os.R_OK, follow_symlinks=False)
        (small if fits else others).append(name)
    return small, others


def _run_git(root: Path, *arguments: str, given: bytes = b"", environment: Mapping[str, str] = {}) -> bytes | None:
    """Return the output of git, or None if it fails or is not installed."""
    command: list[str | Path] = ["git", "--literal-pathspecs", "--no-optional-locks", "-C", root, *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=10, env={**os.environ, **environment})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
