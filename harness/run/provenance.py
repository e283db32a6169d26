"""Provenance of a run: code, command, machine and package versions."""

import getpass
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from harness.config.compose import flatten_config, remove_credentials, to_plain_dict
from harness.core.credentials import hide_credentials, hide_credentials_in_text
from harness.core.digests import add_digest_comment
from harness.core.paths import project_dir, run_command

if TYPE_CHECKING:
    import torch  # not at run time: sweeps over other programs do without it

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "hydra-core", "optuna", "mlflow")
MAX_FILE_CHANGES = 1_000_000  # characters of a file's changes that a patch includes
MAX_LINE_LENGTH = 20_000  # characters; longer ones are data
MAX_UNTRACKED = 100  # names in a patch
# Independent of the user's settings, without filters that decrypt files, and with the names of renamed files.
DIFF_COMMAND = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative", "--submodule=short", "-M",
                "--src-prefix=a/", "--dst-prefix=b/")  # fmt: skip
GIT_LOCATION = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")

SECRET_FILES = (
    ".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx",
    "*.gpg", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*credential*", "*secret*", "*password*", "*passwd*",
    "*service-account*.json", "*service_account*.json", "kaggle.json", "*.tfvars", "*.tfstate", ".htpasswd", ".netrc",
    "_netrc", ".pgpass", ".my.cnf", ".npmrc", ".pypirc", ".git-credentials", ".s3cfg", ".boto", ".ssh", ".aws",
    ".gnupg", ".kube", ".docker",
)  # fmt: skip
"""Patterns of files and folders whose changes no patch includes, in lower case."""
PRIVATE_TEXT = re.compile(
    r"""-----BEGIN\ [A-Z ]*PRIVATE\ KEY
    | \b(?: AKIA|ASIA)[0-9A-Z]{16}\b               # AWS
    | \bgh[pousr]_\w{20} | \bgithub_pat_\w{20}    # GitHub
    | \bglpat-[\w-]{20}                            # GitLab
    | \bhf_[A-Za-z0-9]{20}                         # Hugging Face
    | \bsk-[\w-]{20}                               # OpenAI, Anthropic
    | \bxox[abprs]-[\w-]{10}                       # Slack
    | \bAIza[\w-]{30}                              # Google
    # A password or key that is given as text: in quotes, or in YAML and .ini files as one word with a digit.
    | (?i:pass(?:word|wd|phrase)?|secret|pwd|(?:api|access|secret|private)_?key|(?:auth|access|api|hub|hf)_?token)
      ["']?\s*[:=]\s*(?:["'][^"'\s${}<>]{6,}["'] | (?=\S{0,250}\d)[^\s"'(){}\[\]<>$,.]{8,250}\s*$)
    """,
    re.VERBOSE | re.MULTILINE,
)
"""Plain keys and passwords in the text of a file."""


@cache
def collect_provenance(device: "torch.device", root: Path) -> Mapping[str, str]:
    """Return tags that describe the machine, the versions, and the commit of the code under `root`."""
    return {**describe_environment(root), "device": _device_name(device)}


@cache
def describe_environment(root: Path) -> Mapping[str, str]:
    """Return the same tags without that of the device."""
    described = {
        "host": socket.gethostname(),
        "user": _user_name(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "not set"),
        **_installed_versions(),
    }
    commit = _run_git(root, "rev-parse", "HEAD")
    if commit and _tracks_files(root):
        described["git.commit"] = commit.decode().strip()
        described["git.is_dirty"] = str(bool(_run_git(root, "status", "--porcelain", "--", "."))).lower()
    return described


def write_provenance(folder: Path, cfg: DictConfig, command: str) -> None:
    """Write the resolved configuration, the command and the uncommitted changes to a run's folder.

    Addresses are written without their credentials, and changes without files that look like secrets.
    """
    resolved = OmegaConf.create(to_plain_dict(cfg))
    remove_credentials(resolved)
    (folder / "config.yaml").write_text(add_digest_comment(OmegaConf.to_yaml(resolved)))
    (folder / "command.txt").write_text(command + "\n")
    if changes := diff_from_commit(project_dir()):
        (folder / "diff.patch").write_text(changes)


def current_command(overrides: Iterable[str] = ()) -> str:
    """Return the command line of this process, without passwords in addresses.

    Words that set the key of one of `overrides` are replaced by it.
    """
    program = os.path.basename(sys.argv[0]) or "python"
    replaced = {override.partition("=")[0]: override for override in overrides}
    given = [replaced.get(word.partition("=")[0], word) for word in sys.argv[1:]]
    words = [program, *map(hide_credentials, given)]
    return shlex.join(["python", *words] if program.endswith(".py") else words)


def format_command(overrides: Iterable[str]) -> str:
    """Return the command line that starts a run with `overrides`."""
    return shlex.join([*run_command(), *overrides])


@cache
def diff_from_commit(root: Path) -> str:
    """Return a patch from the commit to the files under `root` that git tracks; other files are named.

    Files are left out by name if they or their changes look like secrets. It is empty if there is no change, no commit,
    or nothing under `root` is tracked, and in a home folder, which is not a project. Cached, since a process keeps
    running the code that it has loaded.
    """
    if root.resolve() == Path.home().resolve() or not _tracks_files(root):
        return ""
    changes = _run_git(root, *DIFF_COMMAND, "HEAD", "--", ".") or b""
    untracked = (_run_git(root, "ls-files", "--others", "--exclude-standard", "-z") or b"").split(b"\0")[:-1]
    named = [_quote_name(name) for name in untracked[:MAX_UNTRACKED]]
    if len(untracked) > MAX_UNTRACKED:
        named.append(f"and {len(untracked) - MAX_UNTRACKED} more")
    return "".join([*(f"# untracked, not in this patch: {name}\n" for name in named), *_keep_public_changes(changes)])


def _tracks_files(root: Path) -> bool:
    """Return whether `root` belongs to the repository around it, which may be that of a home folder."""
    return bool(_run_git(root, "ls-files", "--", "."))


def _keep_public_changes(patch: bytes) -> Iterator[str]:
    """Yield the changes of each file, or a comment that says why they are left out."""
    starts = [match.start() for match in re.finditer(rb"^diff --git ", patch, re.MULTILINE)]
    for start, end in pairwise([*starts, len(patch)]):
        text = patch[start:end].decode(errors="replace")
        names = _changed_names(text)
        if any(map(looks_secret, names)):
            reason = "its name is that of a file with secrets"
        elif len(text) > MAX_FILE_CHANGES:
            reason = "its changes are large"
        elif any(len(line) > MAX_LINE_LENGTH for line in text.splitlines()):
            reason = f"it has lines of more than {MAX_LINE_LENGTH:,} characters"
        elif PRIVATE_TEXT.search(text) or hide_credentials_in_text(text) != text:
            reason = "its changes hold what looks like a password or a key"
        else:
            yield text
            continue
        yield f"# not in this patch, {reason}: {names[-1]}\n"


def _changed_names(changes: str) -> list[str]:
    """Return the old and the new name of a file from its part of a patch; one name if it was not renamed."""
    header = changes.partition("\n@@")[0]
    renamed = re.findall(r"^(?:rename|copy) (?:from|to) (.*)$", header, re.MULTILINE)
    both = header.partition("\n")[0].removeprefix("diff --git ")
    return renamed or [both[: len(both) // 2].strip('"').removeprefix("a/")]  # "a/NAME b/NAME"


def looks_secret(name: str) -> bool:
    """Return whether a file of this name, or in a folder of this name, usually holds keys or passwords."""
    parts = name.lower().strip('"').split("/")
    return any(fnmatchcase(part, pattern) for part in parts for pattern in SECRET_FILES)


def _quote_name(name: bytes) -> str:
    """Return a file name in one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in name.decode(errors="replace"))


def _run_git(root: Path, *arguments: str) -> bytes | None:
    """Return the output of git, or None if it fails or is not installed."""
    command: list[str | Path] = ["git", "--literal-pathspecs", "--no-optional-locks", "-C", root, *arguments]
    # Inside a git hook these name the hook's repository.
    environment = {name: value for name, value in os.environ.items() if name not in GIT_LOCATION}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _device_name(device: "torch.device") -> str:
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def read_recorded_params(cfg: DictConfig) -> dict[str, str]:
    """Return the settings as they are recorded: every leaf as text, addresses without their credentials."""
    return {key: hide_credentials(value) for key, value in flatten_config(to_plain_dict(cfg)).items()}


def _installed_versions() -> dict[str, str]:
    """Return tags of the versions of PACKAGES, without those that are not installed."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):  # sweeps over other programs do without torch and more
            versions[f"version.{package}"] = version(package)
    return versions


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
