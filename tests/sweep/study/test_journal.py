"""The journal of a study while this program and plain Optuna write it, and while either is killed."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState, create_trial

from harness.sweep.optuna_internals import optuna_lock_path
from harness.sweep.study import journal
from harness.sweep.study.journal import JournalLock
from harness.sweep.study.storage import open_storage

FORK = multiprocessing.get_context("fork")  # real processes without another import of Optuna
JOIN_SECONDS = 25  # Optuna breaks a lock after 30 s, so that a writer which waits for that is found


def open_ours(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=open_storage(None, folder))


def open_plain(folder: Path) -> optuna.Study:
    path = str(folder / "study.journal")
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(path)))


def open_plain_with_open_lock(folder: Path) -> optuna.Study:
    path = str(folder / "study.journal")
    backend = JournalFileBackend(path, JournalFileOpenLock(path))
    return optuna.load_study(study_name="s", storage=JournalStorage(backend))


def write_in_every_way(open_study: Callable[[Path], optuna.Study], folder: Path, name: str, n: int) -> None:
    """Write `n` times each way a notebook does, and log each write that returned."""
    study, log = open_study(folder), (folder / f"{name}.log").open("a")
    for index in range(n):
        label = f"{name}-{index}"
        study.enqueue_trial({"x": 0.5}, user_attrs={"label": f"queued-{label}"})
        study.set_user_attr(label, index)
        study.add_trial(create_trial(value=1.0, user_attrs={"label": f"added-{label}"}))
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.report(2.0, 1)
        trial.set_user_attr("told", label)
        study.tell(trial, 1.0)
        log.write(f"{label}\n")
        log.flush()


def start_writer(*arguments: object) -> multiprocessing.Process:
    process = FORK.Process(target=write_in_every_way, args=arguments)
    process.start()
    return process


def read_labels(study: optuna.Study, key: str) -> list[str]:
    return sorted(trial.user_attrs[key] for trial in study.trials if key in trial.user_attrs)


@pytest.fixture
def folder(tmp_path) -> Path:
    optuna.create_study(study_name="s", storage=open_storage(None, tmp_path))
    return tmp_path


def test_plain_optuna_and_this_program_write_at_the_same_time_and_lose_nothing(folder) -> None:
    openers = {"ours1": open_ours, "ours2": open_ours, "plain1": open_plain, "plain2": open_plain_with_open_lock}
    writers = [start_writer(opener, folder, name, 12) for name, opener in openers.items()]
    for writer in writers:
        writer.join(JOIN_SECONDS)
    assert [writer.exitcode for writer in writers] == [0] * 4
    expected = sorted(f"{name}-{index}" for name in openers for index in range(12))
    for study in (open_ours(folder), open_plain(folder)):
        assert sorted(study.user_attrs) == expected
        assert read_labels(study, "told") == expected
        assert read_labels(study, "label") == sorted(
            f"{way}-{label}" for way in ("added", "queued") for label in expected
        )
    assert not os.path.lexists(optuna_lock_path(folder / "study.journal"))


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_killing_writers_of_either_kind_loses_no_write_that_returned(kills, folder, monkeypatch) -> None:
    monkeypatch.setattr(journal, "LOCK_GRACE_SECONDS", 0.5)
    chance, openers = random.Random(kills), [open_ours, open_plain]
    for kill in range(kills):
        victim = start_writer(openers[kill % 2], folder, f"victim{kill}", 1000)
        other = start_writer(open_ours, folder, f"other{kill}", 5)
        time.sleep(0.02 + 0.1 * chance.random())
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        other.join(JOIN_SECONDS)
        assert other.exitcode == 0
    acknowledged = {line for log in folder.glob("*.log") for line in log.read_text().splitlines()}
    assert len(acknowledged) >= 5 * kills
    study = open_ours(folder)
    assert acknowledged <= set(study.user_attrs)
    assert acknowledged <= set(read_labels(study, "told"))
    assert {f"queued-{label}" for label in acknowledged} <= set(read_labels(study, "label"))
    study.set_user_attr("end", 1)
    assert open_plain(folder).user_attrs["end"] == 1


def die_with_lock(lock: JournalLock | optuna.storages.journal.JournalFileSymlinkLock) -> None:
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("holder", ["ours", "plain", "plain relative", "plain file"])
def test_a_lock_of_a_dead_process_is_broken(holder, folder, monkeypatch) -> None:
    path = folder / "study.journal"
    lock = {
        "ours": JournalLock(path),
        "plain": optuna.storages.journal.JournalFileSymlinkLock(str(path)),
        "plain relative": optuna.storages.journal.JournalFileSymlinkLock(os.path.relpath(path)),  # points to nothing
        "plain file": JournalFileOpenLock(str(path)),
    }[holder]
    victim = FORK.Process(target=die_with_lock, args=(lock,))
    victim.start()
    victim.join()
    assert os.path.lexists(optuna_lock_path(path))
    monkeypatch.setattr(journal, "LOCK_GRACE_SECONDS", 1e9 if holder == "ours" else 0.2)  # our own is broken at once
    writer = start_writer(open_ours, folder, "writer", 1)
    writer.join(JOIN_SECONDS)
    assert writer.exitcode == 0
    assert open_plain(folder).trials[-1].state == TrialState.COMPLETE


def test_a_line_that_another_program_is_writing_is_not_removed(folder, capsys) -> None:
    path = folder / "study.journal"
    before = path.read_bytes()
    line = b'{"op_code":2,"worker_id":"w","study_id":0,"user_attr":{"late":1}}\n'
    with path.open("ab", buffering=0) as file:
        file.write(line[:20])
        finisher = FORK.Process(target=lambda: (time.sleep(0.05), file.write(line[20:])))
        finisher.start()
        open_ours(folder).set_user_attr("mine", 1)
    finisher.join()
    assert path.read_bytes().startswith(before + line)
    assert open_plain(folder).user_attrs == {"late": 1, "mine": 1}
    assert capsys.readouterr().err == ""


def test_an_incomplete_last_line_is_removed_with_a_note(folder, capsys) -> None:
    path = folder / "study.journal"
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "worker_')
    open_ours(folder).set_user_attr("mine", 1)
    assert open_plain(folder).user_attrs == {"mine": 1}
    assert "removed an incomplete last line of 23 bytes" in capsys.readouterr().err
