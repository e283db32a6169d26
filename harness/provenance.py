"""Where a run comes from: code, command, machine, versions."""

import getpass
import os
import platform
import shlex
import socket
import subprocess
import sys
from importlib.metadata import version

import torch

from harness.config import ROOT

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "hydra-core", "optuna", "mlflow")


def tags(device: torch.device) -> dict[str, str]:
    """Names and values for people who want to make this run again."""
    described = {
        "command": command(),
        "host": socket.gethostname(),
        "user": _user(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": _device_name(device),
        **{f"version.{package}": version(package) for package in PACKAGES},
    }
    commit = _git("rev-parse", "HEAD")
    if commit:
        described["git.commit"] = commit.strip()
        described["git.is_dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    return described


def command() -> str:
    program = os.path.basename(sys.argv[0]) or "python"
    return shlex.join(["python", program, *sys.argv[1:]] if program.endswith(".py") else [program, *sys.argv[1:]])


def diff() -> str:
    """What the working tree changes on top of its commit; empty where it is clean or no git repository."""
    return _git("diff", "HEAD") or ""


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
