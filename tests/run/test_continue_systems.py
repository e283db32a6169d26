"""Each kind of training continues bit by bit, from probes, evaluations and signals, and after real kills."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.core.events import Event, StepEnd
from harness.core.signals import was_signaled
from harness.record.metrics_file import METRICS_FILE
from harness.run.run_dir import clear_run_dir
from harness.tracking.run_uploader import upload_run
from harness.tracking.upload_cursor import UploadCursor
from harness.training.policies import Decision
from tests.conftest import ROOT
from tests.data.documents import SyntheticDocuments
from tests.run.continued_process import PROBES
from tests.run.test_continue_run import Case, assert_same_run, die_after, pause_at
from tests.run.test_resume import TINY
from tests.run.test_run import read_record
from tests.tasks.test_operator import TINY as TINY_OPERATOR
from tests.tracking.stores import new_store
from tests.tracking.test_continued_upload import read_points

SYSTEMS = {
    "adapters": [*TINY, "lora=all_linear", "optimizer.lr=0.01"],
    "dropout": [*TINY, "model.dropout=0.4"],
    "accumulation": [*TINY, "batch.batch_size=8", "batch.micro_batch_size=2", "model.dropout=0.3"],
    "plateau": [*TINY, "schedule=plateau", "schedule.patience=0", "schedule.threshold=0.3"],
    "averaged": [*TINY, "optimizer=schedule_free", "schedule=constant", "optimizer.lr=0.01"],
    "muon": [*TINY, "optimizer=muon"],
    "fp16": [*TINY, "precision=fp16"],
    "rollback": [*TINY, "loop.on_spike=rollback", "optimizer=sgd", "optimizer.lr=1e12", "loop.grad_clip=null",
                 "loop.spike_lr_factor=1e-13"],
    "patience": [*TINY, "loop.patience=1", "optimizer.lr=0.5", "schedule=constant"],
    "masked": ["experiment=ltg_bert", "device=cpu", "observers=metrics_only", "data=text", "data.sequence_length=32",
               "batch.batch_size=8", "tokenizer.vocab_size=90", "optimizer.lr=0.03", "model.width=32", "model.layers=2",
               "model.heads=2", "model.hidden=64", "data.source.path={text}", "data.source.split_on=\\n"],
    "operator": TINY_OPERATOR,
}  # fmt: skip


class SystemCase(Case):
    """The same for one of SYSTEMS: 25 steps, evaluated at 10, 20 and 25, with probes at 1, 3 and 9."""

    def __init__(self, name: str, folder: Path, cache_dir: Path) -> None:
        super().__init__(folder, cache_dir)
        (folder / "text.txt").write_text("\n".join(one.text for one in SyntheticDocuments(count=300).iter_documents()))
        system = [override.replace("{text}", str(folder / "text.txt")) for override in SYSTEMS[name]]
        length = ["loop.max_steps=25", "loop.evals=null", "loop.eval_every=10", "loop.log_every=4", "loop.epochs=null"]
        self.overrides = [*system, *length, f"cache_dir={cache_dir}", f"output_dir={folder}"]
        self.probes = PROBES


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_continues_bit_by_bit(name: str, tmp_path: Path, cache_dir: Path) -> None:
    case = SystemCase(name, tmp_path, cache_dir)
    straight = case.run_straight()
    with_pauses = case.start(pause_at(1))
    while with_pauses.status == "paused":
        paused = with_pauses.step
        with_pauses = case.go_on(pause_at(*(step for step in (1, 3, 9, 10, 20) if step > paused)))
    assert_same_run(with_pauses, straight)
    clear_run_dir(case.folder)
    dies = [step for step in (2, 6, 13, 22) if step < straight.step]
    for number, step in enumerate(dies):
        case.die(die_after(step), is_continued=bool(number))
    assert_same_run(case.go_on(), straight)
    clear_run_dir(case.folder)
    interrupted = case.start(signal_after(5))
    assert (interrupted.status, interrupted.step) == ("interrupted", 5)
    assert was_signaled()
    assert case.go_on(signal_after(7)).step == 7
    assert_same_run(case.go_on(), straight)
    rollbacks = [entry["restored_step"] for entry in read_record(straight.folder) if entry["kind"] == "spike"]
    assert rollbacks == ([0] if name == "rollback" else [])  # not to the probe of step 1
    alone = case.run_without_probes()
    assert (alone.best_val_loss, alone.best_step, alone.step) == (
        straight.best_val_loss,
        straight.best_step,
        straight.step,
    )


def signal_after(step: int) -> object:
    def policy(event: Event) -> Decision:
        if isinstance(event, StepEnd) and event.step == step:
            signal.raise_signal(signal.SIGTERM)
        return None

    return policy


@pytest.mark.slow
def test_run_killed_at_random_moments_is_one_run(tmp_path: Path, cache_dir: Path, monkeypatch) -> None:
    """Kill -9 while it builds, trains, saves, cuts the record, and uploads in a process of its own."""
    store = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    case = SystemCase("dropout", tmp_path, cache_dir)
    tracked = [one for one in case.overrides if not one.startswith("observers=")]
    tracked += [f"tracking.uri={store}", "loop.max_steps=300", "loop.eval_every=40", "loop.log_every=7"]
    case.overrides = tracked
    straight = case.run_straight()
    command = [sys.executable, "-m", "tests.run.continued_process", str(case.folder), "12,36,108,240", *tracked]
    chance, n_killed, moments, statuses = random.Random(0), 0, [], ["paused"]
    while statuses[-1] == "paused":
        is_last = n_killed >= 14
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            if not is_last:
                record, before = case.folder / METRICS_FILE, read_size(case.folder)
                deadline = time.monotonic() + 60
                while read_size(case.folder) == before and child.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.001)
                time.sleep(chance.choice([0, 0.002, 0.01, 0.05, 0.2, 0.4]))
                child.kill()
                n_killed += child.wait() == -signal.SIGKILL
                moments.append(read_size(case.folder) if record.exists() else 0)
                continue
            output, _ = child.communicate(timeout=120)
            statuses.append(output.rpartition("status: ")[2].strip())
    assert statuses[-1] == "completed"
    result = case.go_on()
    assert_same_run(result, straight)
    assert not [path for path in case.folder.rglob("*") if path.name.endswith((".tmp", ".removed", ".old"))]
    upload_run(case.folder)
    assert read_points(store, UploadCursor.load(case.folder).run_id) == read_points(
        store, UploadCursor.load(straight.folder).run_id
    )
    n_continued = sum(entry["kind"] == "continued" for entry in read_record(case.folder))
    print(f"\n{n_killed} kills, continued {n_continued} times in the record that is left")


def read_size(folder: Path) -> tuple[int, int]:
    """Return the inode and the length of the record, which change when it is cut and grows."""
    try:
        found = (folder / METRICS_FILE).stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_size
