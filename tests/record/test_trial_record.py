"""The record of a trial that another program ran."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.errors import ConfigError, DamageError
from harness.core.files import is_locked
from harness.diagnosis.history import SECONDS
from harness.importers.programs.trial_history import read_trial_history
from harness.record import trial_record
from harness.record.metrics_file import TRIAL_FILE, encode_entry, read_entries
from harness.record.run_listing import read_run_overview
from harness.record.run_lookup import RunFolder, list_runs
from harness.record.trial_record import (
    RecordedCheckpoint,
    RecordedProgress,
    TrialEnd,
    TrialRecord,
    check_own_run,
    find_best,
    is_foreign_folder,
    read_directions,
    read_values,
)
from tests.conftest import ROOT
from tests.observers.test_metrics_writer import limit_file_size
from tests.record.run_folders import write_run
from tests.record.trials import make_start, write_trial

WRITER = """
import sys, time
from pathlib import Path
from tests.record.trials import make_start
from harness.record.trial_record import TrialRecord
record = TrialRecord(Path(sys.argv[1]), make_start())
for step in range(1, 4):
    record.add_metrics(step, {"val/acc": step / 10, "train/loss": 1 / step})
print("written", flush=True)
time.sleep(600)
"""


def entries_of(folder: Path) -> list[dict]:
    return [entry for entry, _ in read_entries(folder / TRIAL_FILE)]


def test_record_of_a_whole_trial(tmp_path) -> None:
    start, *rows, end = entries_of(write_trial(tmp_path / "3"))
    assert (start["kind"], start["name"], start["effective"], start["total_steps"]) == ("start", "3", None, None)
    assert start["searched"] == {"optimizer.lr": 0.0003, "model.rank": 8}
    assert read_directions(start) == {"val/acc": "maximize"}
    assert [(row["step"], row["metrics"], row["total_steps"]) for row in rows][1] == (20, {"val/acc": 0.9}, 40)
    assert (end["status"], end["step"], end["seconds"], read_values(start, end)) == ("completed", 30, 1.5,
                                                                                    {"val/acc": 0.8})  # fmt: skip
    assert is_locked(tmp_path / "3" / TRIAL_FILE) is False


def test_record_can_be_read_while_it_grows_and_is_never_overwritten(tmp_path) -> None:
    record = TrialRecord(tmp_path / "3", make_start())
    record.add_metrics(1, {"val/acc": math.nan})
    assert len(entries_of(tmp_path / "3")) == 2
    assert math.isnan(entries_of(tmp_path / "3")[1]["metrics"]["val/acc"])
    assert is_locked(tmp_path / "3" / TRIAL_FILE) is True
    with pytest.raises(FileExistsError):
        TrialRecord(tmp_path / "3", make_start())
    assert read_run_overview(RunFolder(tmp_path / "3")).status == "running"
    record.close()


def continue_trial(folder: Path) -> TrialRecord:
    return TrialRecord(folder, make_start(), is_continued=True)


def test_a_trial_that_is_continued_has_one_record(tmp_path) -> None:
    checkpoint = RecordedCheckpoint("/out/step-20.pt", "100 7")
    record = TrialRecord(tmp_path / "3", make_start())
    record.add_metrics(10, {"val/acc": 0.5}, total_steps=40)
    record.add_metrics(20, {"val/acc": 0.6})
    record.add_checkpoint(checkpoint)
    record.end(TrialEnd("paused", "0.6 at step 20 of 40", 4.0))
    assert read_run_overview(RunFolder(tmp_path / "3")).status == "paused"
    record = continue_trial(tmp_path / "3")
    assert record.progress == RecordedProgress(20, 40, 4.0, checkpoint)
    for step in (10, 20, 30, 40):  # from its beginning
        record.add_metrics(step, {"val/acc": step / 100})
    record.end(TrialEnd("completed", seconds=9.0, values={"val/acc": 0.4}))
    start, *rest = entries_of(tmp_path / "3")
    kinds = ["metrics", "metrics", "checkpoint", "continue", "metrics", "metrics", "end"]
    assert [entry["kind"] for entry in rest] == kinds
    assert [entry["step"] for entry in rest if entry["kind"] == "metrics"] == [10, 20, 30, 40]
    assert (rest[3]["step"], rest[3]["seconds"]) == (20, 4.0)
    for entry, at_ms in zip((start, *rest), (0, 1000, 2000, 2000, 60_000, 61_000, 62_000, 62_000), strict=True):
        entry["at_ms"] = at_ms
    assert list(read_trial_history(start, rest, tmp_path / "3" / TRIAL_FILE)[SECONDS].values) == [1, 2, 5, 6]


def test_a_trial_killed_in_the_middle_of_a_line_is_continued_after_the_line_before(tmp_path) -> None:
    folder = write_trial(tmp_path / "3", status=None)
    path = folder / TRIAL_FILE
    path.write_bytes(path.read_bytes()[:-40])
    record = continue_trial(folder)
    assert (record.progress.step, record.progress.checkpoint) == (20, None)
    record.add_metrics(30, {"val/acc": 0.8})
    record.close()
    assert [entry.get("step") for entry in entries_of(folder)] == [None, 10, 20, 20, 30]
    path.write_bytes(path.read_bytes()[:20])  # of the first line
    record = continue_trial(folder)
    record.add_metrics(10, {"val/acc": 0.5})
    record.close()
    assert [entry["kind"] for entry in entries_of(folder)] == ["start", "metrics"]


def test_a_record_is_continued_when_the_children_of_a_killed_process_have_ended(tmp_path) -> None:
    path = write_trial(tmp_path / "3", status="paused") / TRIAL_FILE
    hold = "import sys, time; lock = FileLock(Path(sys.argv[1])); lock.acquire(); print(flush=True); time.sleep(0.5)"
    code = f"from pathlib import Path; from harness.core.files import FileLock; {hold}"
    with subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        continue_trial(path.parent).close()
    assert entries_of(path.parent)[-1]["kind"] == "continue"


def test_a_damaged_record_is_not_continued_and_not_changed(tmp_path) -> None:
    path = write_trial(tmp_path / "3", status="paused") / TRIAL_FILE
    damaged = path.read_bytes().replace(b'"step": 20', b'"step": 21')
    path.write_bytes(damaged)
    with pytest.raises(DamageError, match="line 3: damaged"):
        continue_trial(tmp_path / "3")
    assert path.read_bytes() == damaged
    assert is_locked(path) is False


def test_full_disk_loses_nothing(tmp_path, capsys) -> None:
    record, path = TrialRecord(tmp_path / "3", make_start()), tmp_path / "3" / TRIAL_FILE
    with limit_file_size(path.stat().st_size):
        record.add_metrics(1, {"val/acc": 0.5})
    record.add_metrics(2, {"val/acc": 0.6})
    record.end(TrialEnd("completed", values={"val/acc": 0.6}))
    assert [entry.get("step") for entry in entries_of(tmp_path / "3")] == [None, 1, 2, 2]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_process_killed_in_the_middle_is_seen_as_died(tmp_path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "3")], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    running = read_run_overview(RunFolder(tmp_path / "3"))
    assert (running.status, running.step, running.objective, running.best_value) == ("running", 3, "val/acc", 0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    died = read_run_overview(RunFolder(tmp_path / "3"))
    assert (died.status, died.reason, died.step) == ("failed", "its process died", 3)
    assert [entry["metrics"]["val/acc"] for entry in entries_of(tmp_path / "3")[1:]] == [0.1, 0.2, 0.3]


def test_overview_has_the_best_of_what_is_maximized(tmp_path) -> None:
    ended = read_run_overview(RunFolder(write_trial(tmp_path / "3")))
    assert (ended.best_value, ended.step, ended.choice) == (0.8, 30, "python train.py --rank 8")
    died = read_run_overview(RunFolder(write_trial(tmp_path / "4", status=None)))
    assert (died.best_value, died.status) == (0.9, "failed")
    assert read_run_overview(RunFolder(write_trial(tmp_path / "5", [], "failed"))).best_value is None
    assert find_best([math.nan, math.inf, 2.0, 1.0], "minimize") == 1.0


def test_record_holds_no_secrets(tmp_path) -> None:
    secret = "hunter2hunter2"
    params = {"db": f"postgresql://me:{secret}@host/x", "wandb.api_key": secret, "model.eos_token": "</s>",
              "data.sort_key": "12345678", "hub.token_id": "plain-text"}  # fmt: skip
    start = make_start(
        params=params,
        searched={"uri": f"http://me:{secret}@host"},
        overrides=(f"db=postgresql://me:{secret}@host/x",),
        tags={"command": f"python train.py --db postgresql://me:{secret}@host/x"},
    )
    record = TrialRecord(tmp_path / "3", start)
    record.add_notice(f"connecting to http://me:{secret}@host")
    record.end(TrialEnd("failed", f"no answer from http://me:{secret}@host/"))
    assert secret not in (tmp_path / "3" / TRIAL_FILE).read_text()
    kept = entries_of(tmp_path / "3")[0]["params"]
    assert (kept["wandb.api_key"], kept["model.eos_token"], kept["data.sort_key"]) == ("***", "</s>", "12345678")


@pytest.mark.parametrize(
    "text", ["not ours\n", '{"step": 1, "loss": 2.5}\n', "", encode_entry({"kind": "end"}).decode()]
)
def test_program_may_write_a_file_with_the_name_of_our_records(text: str, tmp_path) -> None:
    folder = write_trial(tmp_path / "3", status=None)
    (folder / "metrics.jsonl").write_text(text)
    assert len(entries_of(folder)) == 4
    found = read_run_overview(RunFolder(folder))
    assert (found.status, found.step) == ("failed", 30)
    assert [run.path for run in list_runs(tmp_path)] == [folder]
    assert is_foreign_folder(folder)


def test_values_of_any_type_are_recorded(tmp_path) -> None:
    TrialRecord(tmp_path / "3", make_start(searched={"a": Path("x"), "b": None, "c": True, "d": math.inf})).close()
    assert entries_of(tmp_path / "3")[0]["searched"] == {"a": "x", "b": None, "c": True, "d": "Infinity"}


def test_commands_that_need_our_files_refuse_the_trial(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"RUN: .*/3 was run by another program"):
        check_own_run(write_trial(tmp_path / "3"), "RUN")
    check_own_run(write_run(tmp_path / "mine", [1.0], effective={"threads": 1}), "RUN")
    check_own_run(tmp_path / "nothing", "RUN")
    assert trial_record.name_best_metric("best_val_loss") == "best_val_loss"
    assert trial_record.name_metric("val/acc") == "val/acc"
