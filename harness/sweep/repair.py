"""Repair the damaged journal of a sweep, and handle the folders of trials that the study no longer knows."""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

from harness.core.errors import ConfigError, RunFailedError
from harness.core.files import FileLock, write_atomically
from harness.core.formatting import format_number, objective_label
from harness.record.metrics_file import find_record, read_entries
from harness.record.trial_record import read_values
from harness.sweep.results.formatting import format_status_counts
from harness.sweep.results.summary import TrialSummary, summarize_trials
from harness.sweep.study.journal import JournalLock
from harness.sweep.study.journal_damage import JournalRepair, plan_repair, read_complete_lines
from harness.sweep.study.liveness import is_alive
from harness.sweep.study.storage import journal_path, open_storage
from harness.sweep.study.trial_attrs import read_trial_worker


def repair_journal(journal: Path) -> Iterator[str]:
    """Repair a journal and yield what was found and done, in lines.

    Raises:
        ConfigError: If nothing can be kept.
        RunFailedError: If a worker is running a trial.
    """
    if not journal.stat().st_size:
        raise ConfigError(f"{journal}: empty; restore a copy, or move {journal.parent} away and start a new sweep")
    with FileLock(journal.with_name("study.lock")):
        lock = JournalLock(journal)
        lock.acquire()
        try:
            repair = plan_repair(read_complete_lines(journal))
            if repair.bad_lines:
                name, trials = _summarize_kept_study(journal, repair)
                copy = journal.with_name(f"{journal.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
                shutil.copy2(journal, copy)
                write_atomically(journal, b"".join(repair.kept))
        finally:
            lock.release()
    if not repair.bad_lines:
        yield f"{journal}: no damage found in {len(repair.kept)} lines"
        return
    yield from (f"{journal}: {bad}" for bad in repair.bad_lines)
    yield repair.method
    yield f"{copy}: the damaged file"
    yield f"study {name}: {format_status_counts(Counter(trial.status for trial in trials)) or 'no trials'}"
    yield from _handle_trial_folders(journal.parent, trials)
    yield "restart notebooks and dashboards that have the study open; run the command of the sweep again to resume"


def _summarize_kept_study(journal: Path, repair: JournalRepair) -> tuple[str, list[TrialSummary]]:
    """Open the kept lines in a temporary file, as a sweep would, and return the study's name and trials.

    Raises:
        ConfigError: If no study can be kept.
        RunFailedError: If a worker of this host is running one of its trials; it would append to the old file.
    """
    with tempfile.TemporaryDirectory() as folder:
        journal_path(Path(folder)).write_bytes(b"".join(repair.kept))
        storage = open_storage(None, Path(folder))
        names = optuna.get_all_study_names(storage)
        if not names:
            raise ConfigError(
                f"{journal}: {repair.bad_lines[0]}; no study is created before it, so nothing can be kept; "
                f"restore a copy, or move {journal.parent} away and start a new sweep"
            )
        name = journal.parent.name if journal.parent.name in names else names[0]
        study = optuna.load_study(study_name=name, storage=storage)
        for trial in study.trials:
            worker = read_trial_worker(trial)
            if trial.state is TrialState.RUNNING and worker and is_alive(worker):
                raise RunFailedError(f"{journal}: trial {trial.number} is running; stop its worker, then repair")
        return name, summarize_trials(study)


def _handle_trial_folders(folder: Path, trials: Sequence[TrialSummary]) -> Iterator[str]:
    """Report finished trials whose record was lost, and move folders away whose number the next trial would have."""
    for path in sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name)):
        number, ending = int(path.name), _describe_ending(path)
        if number >= len(trials):
            target = folder / "lost" / path.name
            while target.exists():  # from an earlier repair
                target = target.with_name(f"{target.name}+")
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
            yield f"trial {number}: lost from the study, {ending}; moved to {target}"
        elif not trials[number].is_over and trials[number].status != "paused":
            yield f"trial {number}: {trials[number].status} in the study, {ending} in its folder; it will be run again"


def _describe_ending(folder: Path) -> str:
    """Return how the run in a folder ended by its own record."""
    try:
        entries = [entry for entry, _ in read_entries(find_record(folder))]
        first, last = entries[0], entries[-1]
    except (OSError, ValueError, LookupError):
        return "without a readable record"
    if last.get("kind") != "end":
        return "not ended"
    values = [f"{objective_label(name)} {format_number(value)}" for name, value in read_values(first, last).items()]
    return f"{last['status']} with {' and '.join(values) or 'no result'}"
