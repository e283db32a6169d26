"""Damaged journals: what a sweep says of them, and what `plateau repair` keeps."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from harness import cli
from harness.core.errors import ConfigError
from harness.core.files import FileLock
from harness.record.metrics_file import METRICS_FILE
from harness.sweep.study.journal_damage import plan_repair
from harness.sweep.study.liveness import this_process
from harness.sweep.study.setup import check_existing_study
from harness.sweep.study.trial_attrs import WORKER
from harness.sweep.study.trial_queue import TrialQueue
from tests.sweep.study.conftest import tmp_path  # noqa: F401  # one path, so that composed configs are reused
from tests.sweep.tiny_sweeps import TINY, read_tiny_request, serve_trials, start_study


def loss_of(trial) -> float:
    return 1 + trial.number


@pytest.fixture
def overrides(places) -> list[str]:
    return [*TINY, *places, "sweep.n_trials=6"]


@pytest.fixture
def queue(overrides) -> TrialQueue:
    """A study of four completed trials."""
    queue = start_study(*overrides)
    serve_trials(queue, loss_of, 4)
    return queue


def read_lines(queue: TrialQueue) -> list[bytes]:
    return (queue.folder / "study.journal").read_bytes().splitlines(keepends=True)


def write_lines(queue: TrialQueue, lines: list[bytes]) -> None:
    (queue.folder / "study.journal").write_bytes(b"".join(lines))


def find_line(lines: list[bytes], matches: Callable[[dict], bool]) -> int:
    return next(index for index, line in enumerate(lines) if matches(json.loads(line)))


GARBAGE = {
    "text": (b"hello\n", "not JSON"),
    "binary": (b"\xff\x00\xfe\n", "not JSON"),
    "zeros": (b"\0" * 100 + b"\n", "not JSON"),
    "empty": (b"\n", "not JSON"),
    "number": (b"5\n", "not a record of Optuna"),
    "no operation": (b"{}\n", "not a record of Optuna"),
    "operation": (b'{"op_code":99,"worker_id":"w"}\n', "unknown operation 99"),
    "fields": (b'{"op_code":4,"worker_id":"w"}\n', "create_trial: KeyError 'study_id'"),
    "value": (b'{"op_code":6,"worker_id":"w","trial_id":4,"state":77,"values":null}\n', "ValueError 77"),
}


@pytest.mark.parametrize("is_last", [False, True])
def test_a_damaged_line_is_named_and_dropped(is_last, queue, overrides, capsys) -> None:
    trial = queue.claim_trial()
    assert trial is not None
    trial.set_user_attr(WORKER, {**this_process(), "started_at": 0.0})  # of a process that has ended
    queue.study.enqueue_trial({})
    before, lines = queue.study.trials, read_lines(queue)
    index = len(lines) - (not is_last)
    offset = sum(map(len, lines[:index]))
    for garbage, problem in GARBAGE.values():
        damaged = [*lines[:index], garbage, *lines[index:]]
        write_lines(queue, damaged)
        with pytest.raises(ConfigError) as error:
            check_existing_study(read_tiny_request(*overrides))
        assert f"study.journal: line {index + 1} (byte {offset}): " in str(error.value)
        assert problem in str(error.value)
        assert f"`plateau repair {queue.folder}`" in str(error.value)
        assert read_lines(queue) == damaged
        assert cli.main(["repair", str(queue.folder)]) == 0
        assert "dropped 1 damaged lines; all others replay" in capsys.readouterr().out
        assert read_lines(queue) == lines
        [copy] = queue.folder.glob("study.journal.damaged-*")
        assert copy.read_bytes() == b"".join(damaged)
        copy.unlink()
    assert start_study(*overrides).study.trials == before


def test_a_damaged_last_line_of_plain_optuna_is_not_appended_to(queue, overrides) -> None:
    write_lines(queue, [*read_lines(queue), b"garbage\n"])
    with pytest.raises(ConfigError, match="not JSON"):
        start_study(*overrides)
    assert read_lines(queue)[-1] == b"garbage\n"


def test_damage_that_appears_while_the_study_is_open_is_named(queue) -> None:
    lines = read_lines(queue)
    write_lines(queue, [*lines, b"garbage\n", lines[-1]])
    with pytest.raises(ConfigError, match=rf"line {len(lines) + 1} .*not JSON"):
        queue.has_more_trials()


def test_journal_of_a_running_worker_is_not_repaired(queue, capsys) -> None:
    queue.claim_trial()
    damaged = [*read_lines(queue), b"garbage\n"]
    write_lines(queue, damaged)
    assert cli.main(["repair", str(queue.folder)]) == 1
    assert "trial 4 is running; stop its worker, then repair" in capsys.readouterr().err
    assert read_lines(queue) == damaged


def test_the_lost_creation_of_a_trial_is_put_back(queue, overrides, capsys) -> None:
    lines, before = read_lines(queue), queue.study.trials
    created = [index for index, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    lines[created[2]] = b"\0" * 200 + b"\n"
    write_lines(queue, lines)
    assert cli.main(["repair", str(queue.folder)]) == 0
    assert "put back the 1 trials" in capsys.readouterr().out
    after = start_study(*overrides).study.trials
    assert [(trial.values, trial.params) for trial in after] == [(trial.values, trial.params) for trial in before]


def test_zeros_before_a_line_cost_nothing(queue, capsys) -> None:
    lines = read_lines(queue)
    write_lines(queue, [*lines[:9], b"\0" * 4096 + lines[9], *lines[10:]])
    assert cli.main(["repair", str(queue.folder)]) == 0
    assert read_lines(queue) == lines


def test_otherwise_the_good_prefix_is_kept_and_lost_folders_are_moved(queue, overrides, capsys) -> None:
    for number in range(4):
        (queue.folder / str(number)).mkdir()
    end = {"kind": "end", "at_ms": 1, "status": "completed", "best_val_loss": 3.25}
    (queue.folder / "3" / METRICS_FILE).write_text(json.dumps(end) + "\n")
    lines = read_lines(queue)
    created = [index for index, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    lines[created[2]] = lines[created[3]] = b"garbage\n"
    write_lines(queue, lines)
    assert cli.main(["repair", str(queue.folder)]) == 0
    told = capsys.readouterr().out
    assert f"kept the {created[2]} lines before the first damaged one" in told
    assert "study default: 2 completed" in told
    assert "trial 3: lost from the study, completed with val loss 3.25" in told
    assert f"moved to {queue.folder}/lost/3" in told
    assert sorted(path.name for path in queue.folder.iterdir() if path.name.isdecimal()) == ["0", "1"]
    assert [trial.number for trial in serve_trials(start_study(*overrides), loss_of)] == [2, 3, 4, 5]


def test_repair_changes_nothing_where_it_cannot_help(queue, capsys) -> None:
    journal, lines = queue.folder / "study.journal", read_lines(queue)
    assert cli.main(["repair", str(journal)]) == 0
    assert f"no damage found in {len(lines)} lines" in capsys.readouterr().out
    assert read_lines(queue) == lines
    with FileLock(queue.folder / "sweep.lock"):
        assert cli.main(["repair", str(queue.folder)]) == 1
    write_lines(queue, [b"garbage\n", *lines[1:]])
    assert cli.main(["repair", str(queue.folder)]) == 2
    assert "nothing can be kept" in capsys.readouterr().err
    assert read_lines(queue) == [b"garbage\n", *lines[1:]]
    write_lines(queue, [])
    assert cli.main(["repair", str(queue.folder)]) == 2
    assert cli.main(["repair", "no-such-study"]) == 2
    assert not list(queue.folder.glob("study.journal.damaged-*"))


def spoil_as_folder(journal: Path) -> None:
    journal.mkdir()


def spoil_as_loop(journal: Path) -> None:
    journal.symlink_to(journal.name)


def spoil_as_dangling_link(journal: Path) -> None:
    journal.symlink_to("nowhere/study.journal")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_as_folder, "Is a directory"),
        (spoil_as_loop, "symbolic links"),
        (spoil_as_dangling_link, "No such file"),
    ],
)
def test_something_else_in_place_of_the_journal_is_named(spoil, reason, overrides) -> None:
    request = read_tiny_request(*overrides)
    request.folder.mkdir(parents=True)
    spoil(request.folder / "study.journal")
    before = os.lstat(request.folder / "study.journal")
    with pytest.raises(ConfigError, match=rf"study\.journal: cannot be used as a journal \(.*{reason}"):
        check_existing_study(request)
    assert [path.name for path in request.folder.iterdir()] == ["study.journal"]
    assert os.lstat(request.folder / "study.journal") == before


@pytest.mark.slow
def test_a_repair_keeps_every_trial_that_a_damaged_line_did_not_concern(queue) -> None:
    """Damage each line in turn."""
    lines = read_lines(queue)
    for index in range(1, len(lines)):
        repair = plan_repair([*lines[:index], b"garbage\n", *lines[index + 1 :]])
        assert len(repair.kept) >= len(lines) - 1, repair.method
    assert queue.study.trials[0].state == TrialState.COMPLETE


@pytest.mark.parametrize("name", ["weights.pt", "study.journal"])
def test_a_file_that_is_no_journal_is_left_alone(name, tmp_path, capsys) -> None:  # noqa: F811
    file = tmp_path / name
    file.write_bytes(b"PK\x03\x04 no line ends here")
    assert cli.main(["repair", str(file)]) == (0 if name == "study.journal" else 2)
    assert file.read_bytes() == b"PK\x03\x04 no line ends here"
    assert name in str(capsys.readouterr())
