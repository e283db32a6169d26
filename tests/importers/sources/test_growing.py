"""Logs that are read while they grow: what changed, truncation, rotation, and standard input."""

import os
import sys
from pathlib import Path

import pytest

from harness.importers.sources.growing import GrowingInput, GrowingLog


def make_lines(first: int, last: int) -> str:
    return "".join(f"step {n} loss {9 - n / 100} val_loss {9.5 - n / 100}\n" for n in range(first, last))


def read_steps(log: GrowingLog) -> list[int] | None:
    histories = log.read_changed()
    return None if histories is None else histories[0]["train/loss"].steps.tolist()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "train.log"


def test_log_is_read_when_it_has_changed(path) -> None:
    log = GrowingLog(path)
    assert read_steps(log) is None
    assert "train.log" in log.problem
    path.write_text("starting\n")
    assert read_steps(log) is None
    assert "no step and loss found" in log.problem
    path.write_text("starting\n" + make_lines(1, 4))
    assert read_steps(log) == [1, 2, 3]
    assert log.problem == ""
    assert read_steps(log) is None
    with path.open("a") as file:
        file.write(make_lines(4, 5))
    assert read_steps(log) == [1, 2, 3, 4]


@pytest.mark.parametrize("is_renamed", [False, True])
def test_rows_before_a_truncation_or_rotation_are_kept(is_renamed, path) -> None:
    log = GrowingLog(path)
    path.write_text(make_lines(1, 40))
    assert len(read_steps(log) or []) == 39
    if is_renamed:
        path.rename(path.with_suffix(".log.1"))
        assert read_steps(log) is None
    path.write_text(make_lines(40, 42))
    assert read_steps(log) == list(range(1, 42))
    with path.open("a") as file:
        file.write(make_lines(42, 44))
    assert read_steps(log) == list(range(1, 44))
    path.write_text(make_lines(30, 33))  # resumed from step 30, into a new file
    assert read_steps(log) == list(range(1, 33))
    assert log.restarts == 0


def test_log_that_begins_again_is_another_run(path) -> None:
    log = GrowingLog(path)
    path.write_text(make_lines(10, 60))
    read_steps(log)
    path.write_text(make_lines(10, 14))
    assert read_steps(log) == [10, 11, 12, 13]
    assert log.restarts == 1


def test_standard_input_is_copied_as_it_arrives(tmp_path, monkeypatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reader))
    log = GrowingInput(tmp_path)
    os.write(writer, make_lines(1, 3).encode())
    log.wait(0.05)
    histories = log.read_changed()
    assert histories is not None
    assert histories[0].facts.source.startswith("text log standard input: 2 of 2")
    assert not log.has_ended
    os.write(writer, make_lines(3, 4).encode())
    os.close(writer)
    log.wait(5)
    assert log.has_ended
    assert read_steps(log) == [1, 2, 3]
