"""The variables that the program of a sweep inherits, any of which may change its results."""

import hashlib
import json
import os
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.core.credentials import SECRET_NAME, hide_credentials_in_text
from harness.core.files import write_atomically
from harness.sweep.programs.command.ranges import NUMBER_LIST
from harness.sweep.programs.command.template import CommandTemplate

ENVIRONMENT_FILE = "environment.json"
"""In the folder of a sweep: the variables of the shell that started it first. Of secrets it has a digest of two bytes,
which shows that one has changed, and little of it."""
DIGEST_BYTES = 2
MAX_SHOWN_CHARACTERS = 40
# Of a terminal, a session or a job of a scheduler, and what the harness and its tests set.
VOLATILE = re.compile(
    r"_|PWD|OLDPWD|SHLVL|COLUMNS|LINES|WINDOWID|LS_COLORS|PS\d|PROMPT_COMMAND|COLORFGBG|COLORTERM|DISPLAY|"
    r"WAYLAND_DISPLAY|EDITOR|VISUAL|PAGER|MAIL|TMPDIR|STY|INVOCATION_ID|JOURNAL_STREAM|SESSION_MANAGER|"
    r"(?:TERM|SSH_|XDG_|TMUX|DBUS_|GPG_|VTE_|LESS|HIST|ITERM|KITTY_|VSCODE_|GIT_|SLURM|PBS_|LSB_|SYSTEMD_|PYTEST_)\w*"
)
# Whose lists name processors and devices.
DEVICE_LISTS = re.compile(r"\w*VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|\w*AFFINITY\w*|(?:OMP|KMP|MKL|GOMP|NCCL)_\w+")

Environment = Mapping[str, Mapping[str, str]]


def note_inherited_ranges(template: CommandTemplate, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield notes on variables of the shell: those that look like ranges, and that all reach the program."""
    inherited = [name for name, text in template.variables.items() if environment.get(name) == text]
    has_ranges = any(name in template.value_ranges for name in inherited)
    for name, text in environment.items():
        is_other = name in template.variables or VOLATILE.fullmatch(name) or DEVICE_LISTS.fullmatch(name)
        if NUMBER_LIST.fullmatch(text) and (name.isupper() or has_ranges) and not is_other:
            yield f"{name} is not searched: {text} is passed as one value; --env {name}={text} searches its parts"
    if has_ranges:
        yield (
            "variables of your shell also reach the program; name those that matter with --env NAME=VALUE, so that "
            "commands and records show them"
        )


def compare_environment(
    folder: Path, template: CommandTemplate, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Yield a note on the variables that differ from those that the sweep in `folder` was started with, if any do."""
    old = _read_environment(folder)
    if old is None:
        return
    new = _describe_environment(template, environment, bytes.fromhex(old["salt"]))
    names = [
        name
        for name in sorted(old["variables"].keys() | new.keys())
        if name not in template.variables and old["variables"].get(name) != new.get(name)
    ]
    if not names:
        return
    changes = ", ".join(f"{name}: {_show(old['variables'].get(name))} -> {_show(new.get(name))}" for name in names)
    known = [name for name in names if 0 < len(new.get(name, {}).get("value", "")) <= MAX_SHOWN_CHARACTERS]
    example = f"{known[0]}={shlex.quote(new[known[0]]['value'])}" if known else "NAME=VALUE"
    yield (
        f"{changes} since the study began; trials may not be comparable; in a new study --env {example} makes a "
        "variable part of it"
    )


def keep_environment(folder: Path, template: CommandTemplate, environment: Mapping[str, str] = os.environ) -> None:
    """Write the variables of the first sweep of a study to its folder."""
    if _read_environment(folder) is not None:
        return
    salt = secrets.token_bytes(16)
    variables = _describe_environment(template, environment, salt)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ENVIRONMENT_FILE, json.dumps({"salt": salt.hex(), "variables": variables}, indent=1))


def _describe_environment(template: CommandTemplate, environment: Mapping[str, str], salt: bytes) -> Environment:
    """Return the value or, for a secret, the digest of each variable that lasts and that the command does not set."""
    found = {}
    for name, text in environment.items():
        if name in template.variables or VOLATILE.fullmatch(name):
            continue
        shown = hide_credentials_in_text(text)
        if SECRET_NAME.fullmatch(name) or shown != text:
            digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=DIGEST_BYTES, salt=salt)
            found[name] = {"digest": digest.hexdigest()}
        else:
            found[name] = {"value": text}
    return found


def _read_environment(folder: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        return json.loads((folder / ENVIRONMENT_FILE).read_text())
    return None


def _show(variable: Mapping[str, str] | None) -> str:
    if variable is None:
        return "unset"
    text = variable.get("value", "(secret)")
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 1]}…"
