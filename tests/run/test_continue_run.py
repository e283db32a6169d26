"""A run that is paused or killed and continued in its folder is the run that never stopped."""

from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from harness.commands.verify_resume import max_difference
from harness.config.compose import compose_config
from harness.core.checkpoint_names import checkpoint_name, list_saved_steps
from harness.core.errors import ConfigError
from harness.core.events import EvalEnd, Event, StepEnd
from harness.core.files import FileLock
from harness.core.shortage import ShortageError
from harness.record import entry_writer
from harness.record.entry_writer import EntryWriter
from harness.record.metrics_file import METRICS_FILE
from harness.record.run_listing import read_run_overview
from harness.record.run_lookup import RunFolder
from harness.run.continuation import CannotContinue
from harness.run.result import RunResult
from harness.run.run_dir import clear_run_dir
from harness.run.runner import run
from harness.training import checkpoint
from harness.training.checkpoint import STATE_FILE, read_checkpoint
from harness.training.checkpointer import AFTER_SPIKE
from harness.training.policies import Decision, Policy, Stop
from tests.run.test_full_disk import failing_after
from tests.run.test_resume import TINY
from tests.run.test_run import read_record

SHORT = [*TINY, "loop.log_every=5", "schedule=plateau", "schedule.patience=0", "schedule.threshold=0.2"]
PROBES = (0.1, 0.5)  # after 2 and 6 of 12 steps, evaluated at 4, 8 and 12
TIMED = ("perf/", "seconds")


def pause_at(*steps: int) -> Policy:
    """Return a policy that pauses a run at evaluations after these steps."""

    def policy(event: Event) -> Decision:
        return Stop("paused", "at a rung") if isinstance(event, EvalEnd) and event.step in steps else None

    return policy


class Stopped(BaseException):
    """Ends a run where kill -9 would: nothing is recorded."""


def die_after(step: int) -> Policy:
    def policy(event: Event) -> Decision:
        if isinstance(event, StepEnd) and event.step == step:
            raise Stopped
        return None

    return policy


class Case:
    """A run without a stop, and one in the folder `broken` that stops and is continued."""

    def __init__(self, folder: Path, cache_dir: Path, *overrides: str) -> None:
        self.overrides = [*SHORT, f"cache_dir={cache_dir}", f"output_dir={folder}", *overrides]
        self.folder, self.places, self.probes = folder / "broken", folder, PROBES

    def start(self, *policies: Policy, **arguments: Any) -> RunResult:
        return run(compose_config(self.overrides), policies, folder=self.folder, probes=self.probes, **arguments)

    def go_on(self, *policies: Policy) -> RunResult:
        return self.start(*policies, is_continued=True)

    def die(self, *policies: Policy, is_continued: bool = False) -> None:
        with pytest.raises(Stopped):
            self.start(*policies, is_continued=is_continued)

    def run_straight(self) -> RunResult:
        return run(compose_config(self.overrides), folder=self.places / "straight", probes=self.probes)

    def run_without_probes(self) -> RunResult:
        return run(compose_config(self.overrides), folder=self.places / "alone")


def read_comparable(folder: Path) -> list[dict[str, Any]]:
    """Return the record of a run without what depends on the clock, the folder, or how often it was continued."""
    entries = [entry for entry in read_record(folder) if entry["kind"] != "continued"]
    for entry in entries:
        for name in ("at_ms", "seconds", "id", "name", "tags", "crc32"):
            entry.pop(name, None)
        entry.get("params", {}).pop("output_dir", None)
        entry["metrics"] = {name: each for name, each in entry.get("metrics", {}).items() if not name.startswith(TIMED)}
    return entries


def assert_same_run(result: RunResult, straight: RunResult) -> None:
    for name in ("status", "reason", "best_val_loss", "best_step", "step", "tokens", "effective"):
        assert getattr(result, name) == getattr(straight, name)
    assert read_comparable(result.folder) == read_comparable(straight.folder)
    assert list_checkpoints(result.folder) == list_checkpoints(straight.folder)
    for name in list_checkpoints(straight.folder) & {checkpoint_name(result.step), "best"}:
        one, other = (read_checkpoint(each.folder / "checkpoints" / name) for each in (result, straight))
        assert {part: max_difference(one[part], other[part])[0] for part in other} == dict.fromkeys(one, 0.0)


def list_checkpoints(folder: Path) -> set[str]:
    """Return the names of the checkpoints, without those that a rollback discarded."""
    return {path.name for path in (folder / "checkpoints").iterdir() if path.suffix != AFTER_SPIKE}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> RunResult:
    return Case(tmp_path_factory.mktemp("straight"), cache_dir).run_straight()


@pytest.fixture
def case(tmp_path: Path, cache_dir: Path) -> Case:
    return Case(tmp_path, cache_dir)


def test_run_paused_at_probes_and_evaluations_is_bit_identical(case, straight) -> None:
    first = case.start(pause_at(2))
    assert (first.status, first.reason, first.step) == ("paused", "at a rung", 2)
    overview = read_run_overview(RunFolder(case.folder))
    assert (overview.status, overview.step) == ("paused", 2)
    assert [entry["kind"] for entry in read_record(case.folder)][-1] == "end"
    for steps in ([2, 4], [4, 6, 8], [6, 8]):
        result = case.go_on(pause_at(*steps))
        assert (result.status, result.step) == ("paused", max(steps[:2]))
    result = case.go_on()
    assert_same_run(result, straight)
    seconds = [entry["seconds"] for entry in read_record(case.folder) if entry["kind"] == "continued"]
    assert 0 < first.seconds < result.seconds
    assert seconds == sorted(seconds)
    assert sum(entry["kind"] == "end" for entry in read_record(case.folder)) == 1


def press_ctrl_c_twice(event: Event) -> Decision:
    if isinstance(event, StepEnd) and event.step == 5:
        raise KeyboardInterrupt
    return None


def test_run_killed_between_checkpoints_is_bit_identical(case, straight) -> None:
    case.die(die_after(3))
    assert case.go_on(press_ctrl_c_twice).reason == "stopped by a second signal"  # without a checkpoint
    case.die(die_after(7), is_continued=True)
    assert case.go_on(pause_at(8)).status == "paused"
    case.die(die_after(11), is_continued=True)
    assert_same_run(case.go_on(), straight)


def test_run_with_probes_equals_one_without(case, straight) -> None:
    alone = case.run_without_probes()
    assert (alone.best_val_loss, alone.best_step) == (straight.best_val_loss, straight.best_step)
    with_probes, without = (
        {entry["step"]: entry["metrics"]["val/loss"] for entry in read_record(one.folder)
         if "val/loss" in entry.get("metrics", {})}
        for one in (straight, alone)
    )  # fmt: skip
    assert with_probes.keys() - without.keys() == {2, 6}
    assert {step: with_probes[step] for step in without} == without
    one, other = (read_checkpoint(each.folder / "checkpoints" / checkpoint_name(12)) for each in (straight, alone))
    assert {part: max_difference(one[part], other[part])[0] for part in other} == dict.fromkeys(one, 0.0)


def test_policies_decide_on_an_evaluation_that_they_have_not_seen(case, straight, monkeypatch) -> None:
    """A run that dies between a checkpoint and the decision on it would else miss the end that it decides."""

    def stop_at_8(event: Event) -> Decision:
        seen.append(event)
        return Stop("completed", "good enough") if isinstance(event, EvalEnd) and event.step == 8 else None

    def die(event: Event) -> Decision:
        if isinstance(event, EvalEnd) and event.step == 8:
            dead.append(event)
            raise Stopped
        return None

    seen: list[Event] = []
    dead: list[EvalEnd] = []
    case.die(die)
    result = case.go_on(stop_at_8)
    assert (result.status, result.reason, result.step) == ("completed", "good enough", 8)
    [event] = seen
    assert isinstance(event, EvalEnd)
    same = ("step", "tokens", "metrics", "best_val_loss", "best_step", "is_best", "evals_since_best", "fraction_done")
    assert [getattr(event, name) for name in (*same, "is_probe")] == [
        getattr(dead[0], name) for name in (*same, "is_probe")
    ]
    assert event.grad_norms == dead[0].grad_norms
    case.folder = case.folder.with_name("paused")
    seen.clear()
    case.start(pause_at(8))
    assert case.go_on(stop_at_8).step == 12  # whoever paused it has decided on step 8


def test_full_disk_while_pausing(case, straight, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_weights", failing_after(2, checkpoint.save_weights))
        with pytest.raises(ShortageError):
            case.start(pause_at(4))
    assert list_saved_steps(case.folder / "checkpoints") == [0, 2]
    assert_same_run(case.go_on(), straight)


def test_full_disk_and_kill_while_the_record_is_cut(case, straight, monkeypatch) -> None:
    case.start(pause_at(6))
    before = (case.folder / METRICS_FILE).read_bytes()
    for error in (OSError(28, "No space left on device"), Stopped()):
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", raising(error, "os.fsync"))
            with pytest.raises((ShortageError, Stopped)):
                case.go_on()
        assert (case.folder / METRICS_FILE).read_bytes() == before
    (case.folder / f".{METRICS_FILE}.1.tmp").write_bytes(before[:100])  # of a process that was killed
    assert_same_run(case.go_on(), straight)
    assert not list(case.folder.glob(".*"))


def raising(error: BaseException, name: str) -> Any:
    def call(*args: Any) -> None:
        raise error

    return call


@pytest.mark.parametrize("file", [STATE_FILE, "checkpoint.json"])
def test_damaged_checkpoint_is_skipped(file, case, straight) -> None:
    case.start(pause_at(6))
    path = case.folder / "checkpoints" / checkpoint_name(6) / file
    path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    result = case.go_on()
    notices = [entry["text"] for entry in read_record(case.folder) if entry["kind"] == "notice"]
    assert any(text.startswith(f"skipped a damaged checkpoint: {path}") for text in notices)
    assert result.best_val_loss == straight.best_val_loss
    assert [entry["step"] for entry in read_record(case.folder) if "train/loss" in entry.get("metrics", {})] == [
        5,
        10,
        12,
    ]


def test_what_cannot_be_continued_is_started_over(case, straight) -> None:
    with pytest.raises(CannotContinue, match=r"metrics\.jsonl: No such file or directory; start the run over"):
        case.go_on()
    case.start(pause_at(6))
    record = (case.folder / METRICS_FILE).read_bytes()
    (case.folder / METRICS_FILE).write_bytes(record.replace(b"val/loss", b"val/lose", 1))
    with pytest.raises(CannotContinue, match=r"no checkpoint from which .*metrics\.jsonl, line \d+: damaged"):
        case.go_on()
    (case.folder / METRICS_FILE).write_bytes(record)
    for path in (case.folder / "checkpoints").glob(f"*/{STATE_FILE}"):
        path.write_bytes(b"damaged")
    with pytest.raises(CannotContinue, match="no checkpoint from which the run can be continued: "):
        case.go_on()
    (case.folder / "notes.txt").write_text("of the user")
    clear_run_dir(case.folder)
    assert [path.name for path in case.folder.iterdir()] == ["notes.txt"]
    result = case.start()
    assert result.best_val_loss == straight.best_val_loss


def test_changed_settings_and_a_running_run_are_refused(case, monkeypatch) -> None:
    monkeypatch.setattr(entry_writer, "LOCK_WAIT_S", 0.1)
    case.start(pause_at(6))
    before = (case.folder / METRICS_FILE).read_bytes()
    same = list(case.overrides)
    for change, message in [
        ("optimizer.lr=0.5", r"optimizer\.lr: 0\.5 was 0\.001 when the run started"),
        ("loop.max_steps=13", r"loop\.max_steps: 13 was 12"),
        ("data.val_fraction=0.02", "data"),
    ]:
        case.overrides = [*same, change]
        with pytest.raises(ConfigError, match=message) as refused:
            case.go_on()
        assert not isinstance(refused.value, CannotContinue)
    case.overrides = same
    with FileLock(case.folder / METRICS_FILE), pytest.raises(ConfigError, match="another process writes this run"):
        case.go_on()
    with FileLock(case.folder / METRICS_FILE), pytest.raises(ConfigError, match="another process writes this run"):
        clear_run_dir(case.folder)
    assert (case.folder / METRICS_FILE).read_bytes() == before


def test_run_that_has_ended_returns_its_result(case) -> None:
    ended = case.start()
    before = (case.folder / METRICS_FILE).read_bytes()
    assert case.go_on() == ended
    assert (case.folder / METRICS_FILE).read_bytes() == before


def test_record_is_cut_under_the_lock_of_its_new_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(entry_writer, "LOCK_WAIT_S", 0.1)
    path = tmp_path / METRICS_FILE
    path.write_bytes(b"kept\ndropped\n")
    writer = EntryWriter(path, keep_bytes=5)
    with pytest.raises(BlockingIOError, match="another process writes this run"):
        EntryWriter(path, keep_bytes=0)
    assert (path.read_bytes(), writer.n_bytes) == (b"kept\n", 5)
    writer.close()
    reader = FileLock(path)
    reader.acquire()
    monkeypatch.setattr(entry_writer, "LOCK_WAIT_S", 30)
    Timer(0.1, reader.release).start()
    EntryWriter(path, keep_bytes=0).close()
    assert path.read_bytes() == b""
