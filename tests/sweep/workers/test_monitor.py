"""Messages of a sweep about errors of its storage, without its password."""

from dataclasses import replace

import pytest
from optuna.exceptions import StorageInternalError

from harness.core.errors import ConfigError
from harness.sweep.programs.training import request as sweep_request
from harness.sweep.results.table import ProgressTable
from harness.sweep.study import setup
from harness.sweep.study.budget import Budget
from harness.sweep.workers import monitor
from harness.sweep.workers.monitor import SweepMonitor
from harness.sweep.workers.worker_pool import WorkerPool
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA, make_worker_spec, read_tiny_request, start_study

STORAGE = "postgresql://me:sec/ret word@db/x"
DRIVER_ERROR = f"cannot connect to 'ret word@db' as me:sec, given {STORAGE}"


def fail_with_address(*args: object) -> None:
    raise StorageInternalError(DRIVER_ERROR)


def test_error_of_the_storage_shows_no_password(places, monkeypatch, capsys) -> None:
    sweep = [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=1", "sweep.n_jobs=1"]
    queue, request = start_study(*sweep), read_tiny_request(*sweep)
    table = ProgressTable(["best_val_loss"], Budget(1), 1)
    pool = WorkerPool(replace(make_worker_spec(request), n_jobs=0))
    monkeypatch.setattr(SweepMonitor, "_poll_once", fail_with_address)
    monkeypatch.setattr(monitor, "STORAGE_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(monitor, "POLL_SECONDS", 0.01)
    outcome = SweepMonitor(queue, pool, table, lambda: False, lambda: None, STORAGE).run()
    table.close()
    hidden = "cannot connect to '***@db' as me:***, given postgresql://***@db/x"
    assert outcome.error == f"the study's storage did not answer: {hidden}"
    assert f"cannot read the study ({hidden})" in capsys.readouterr().err


def test_error_while_a_study_is_opened_shows_no_password(places, monkeypatch) -> None:
    monkeypatch.setattr(sweep_request, "check_database_driver", lambda *_: None)  # it comes with an extra
    request = read_tiny_request(*TINY_WITHOUT_LORA, *places, "sweep.n_trials=1", f"sweep.storage='{STORAGE}'")
    monkeypatch.setattr(setup, "open_storage", fail_with_address)
    with pytest.raises(ConfigError, match=r"^sweep.storage: postgresql://db/x: cannot connect") as refused:
        setup.open_study(request)
    assert "ret word" not in str(refused.value)
    assert "sec," not in str(refused.value)
