"""The record of the program of a sweep, from which its workers can be started again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.credentials import hide_credentials, hide_nested_secrets
from harness.core.digests import read_json
from harness.core.errors import ConfigError
from harness.record import metrics_file
from harness.record.sweep_files import PROGRAM_FILE
from harness.sweep.request import SweepRequest


@dataclass(frozen=True)
class RecordedProgram:
    """The program of a sweep: its `settings` for the runner, and the `command` that starts a worker in `cwd`.

    `storage` is the address of the study's database, None for a journal. Secrets are left out or replaced by ***;
    `hidden` are the places of the texts that had one, such as `settings.template.variables.API_KEY` or `command.3`.
    """

    study: str
    storage: str | None
    settings: Mapping[str, Any]
    command: Sequence[str]
    cwd: str
    launcher: str
    n_jobs: int
    n_threads: int | None
    devices_per_trial: int | None = None
    hidden: Sequence[str] = ()


def write_program(request: SweepRequest) -> None:
    """Write the program of a sweep to its folder, without secrets."""
    workers = request.workers
    secret = {"settings": request.program, "command": list(workers.command)}
    public = {"settings": request.hide_program_secrets(), "command": hide_nested_secrets(list(workers.command))}
    metrics_file.write_json(request.folder / PROGRAM_FILE, {
        "study": request.study_name,
        "storage": hide_credentials(request.options.storage) if request.options.storage else None,
        **public,
        "cwd": workers.cwd,
        "launcher": workers.launcher,
        "n_jobs": workers.n_jobs,
        "n_threads": workers.n_threads,
        "devices_per_trial": workers.devices_per_trial,
        "hidden": list(_find_differences(secret, public)),
    })  # fmt: skip


def read_program(folder: Path) -> RecordedProgram:
    """Return the program of the sweep in `folder`.

    Raises:
        ConfigError: If it has none, or the file is damaged.
    """
    path = folder / PROGRAM_FILE
    try:
        data = read_json(path)
        return RecordedProgram(**data)
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: has no {PROGRAM_FILE}; run the command of the sweep again, which writes it"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); run the command of the sweep again") from error


def _find_differences(data: Any, other: Any, place: str = "") -> Iterator[str]:
    """Yield the places at which plain data of the same form differ."""
    if isinstance(data, Mapping):
        for key in data:
            yield from _find_differences(data[key], other[key], f"{place}{key}.")
    elif isinstance(data, list | tuple):
        for index, (item, other_item) in enumerate(zip(data, other, strict=True)):
            yield from _find_differences(item, other_item, f"{place}{index}.")
    elif data != other:
        yield place.rstrip(".")
