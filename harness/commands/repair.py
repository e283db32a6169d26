"""Repair the damaged journal of a sweep, and keep a copy of the damaged file.

    plateau repair outputs/sweeps/STUDY

Damaged lines are dropped if all others still replay; otherwise the lines before the first damaged one are kept. Folders
of trials that the study no longer knows are moved to STUDY/lost/.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.commands.arguments import CommandParser, ParagraphFormatter
from harness.core.errors import ConfigError, did_you_mean
from harness.core.files import FileLock
from harness.core.paths import project_dir
from harness.record.run_lookup import list_studies
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.repair import repair_journal
from harness.sweep.study.storage import journal_path


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau repair", description=__doc__, formatter_class=ParagraphFormatter)
    parser.add_argument("study", metavar="STUDY", help="a sweep's folder, its name, or its study.journal")
    journal = find_journal(parser.parse_args(arguments).study)
    silence_optuna()
    sweep_lock = FileLock(journal.with_name("sweep.lock"))
    if not sweep_lock.acquire(blocking=False):
        print(f"{journal.parent}: a sweep is running in it; stop it first", file=sys.stderr)
        return 1
    try:
        for line in repair_journal(journal):
            print(line)
    except PermissionError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    finally:
        sweep_lock.release()
    return 0


def find_journal(study: str) -> Path:
    """Return the journal of a study, given as a sweep's folder, its name, or the journal itself.

    Raises:
        ConfigError: If there is no such file.
    """
    candidates = (Path(study), journal_path(Path(study)), journal_path(project_dir() / "outputs" / "sweeps" / study))
    for path in candidates:
        if path.is_file():
            if path.name != journal_path(Path()).name:
                raise ConfigError(
                    f"{study}: not a study.journal; name a sweep's folder, such as outputs/sweeps/default"
                )
            return path
    if journal_path(Path(study)).is_dir():
        raise ConfigError(f"{journal_path(Path(study))}: a folder, not a journal; move it away")
    names = [one.path.name for one in list_studies(project_dir() / "outputs")]
    hint = did_you_mean(study, names)
    raise ConfigError(
        f"{study}: no study.journal there{hint}; name a sweep's folder, such as outputs/sweeps/default; "
        "`plateau list` shows the studies"
    )
