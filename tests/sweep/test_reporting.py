"""`from harness.sweep import report, Pruned`: what scripts call, alone and in a trial."""

import errno
import importlib
import json
import math
import os
import subprocess
import sys
import threading
from contextlib import nullcontext, suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.sweep import Interrupted, Paused, Pruned, report, resume_from
from harness.sweep.reporting import REPORTS_VARIABLE, receive_reports

BAD_VALUES = {
    "True": (True, "value: True is a bool, not a real number"),
    "text": ("0.5", "value: '0.5' is a str, not a real number"),
    "None": (None, "value: None is a NoneType"),
    "numpy bool": (np.bool_(True), "not a real number"),
    "bool tensor": (torch.tensor(True), "a Tensor, not a real number"),
    "complex": (1j, "a complex, not a real number"),
    "complex tensor": (torch.tensor(1j), "a Tensor, not a real number"),
    "tensor": (torch.ones(3), r"value: a Tensor of shape \(3,\) is no single number; report its mean"),
    "empty array": (np.ones((0, 2)), r"a ndarray of shape \(0, 2\)"),
    "list": ([1.0], r"value: \[1.0\] is a list"),
    "huge": (10**400, "cannot be converted to a float"),
    "signaling NaN": (Decimal("sNaN"), "cannot be converted to a float"),
}
BAD_STEPS = {
    "missing": ({"step": None}, TypeError, "step: None is a NoneType, not an integer"),
    "share": ({"step": 0.5}, TypeError, "step: 0.5 is a float, not an integer; count steps or epochs"),
    "whole float": ({"step": 3.0}, TypeError, "step: 3.0 is a float"),
    "bool": ({"step": True}, TypeError, "step: True is a bool"),
    "text": ({"step": "3"}, TypeError, "step: '3' is a str"),
    "negative": ({"step": -1}, ValueError, "step: -1 is less than 0; count steps or epochs from 0 or 1"),
    "no steps": ({"step": 1, "total_steps": 0}, ValueError, "total_steps: 0 is less than 1; leave it out"),
    "transformers": ({"step": 1, "total_steps": -1}, ValueError, "total_steps: -1 is less than 1"),
    "endless": ({"step": 1, "total_steps": math.inf}, TypeError, "total_steps: inf is a float"),
}


class Notes(list[tuple[float, int, int | None]]):
    """A receiver that remembers what it received, and may end the trial at a step."""

    end: tuple[int, Exception] | None = None

    def __init__(self) -> None:
        self.checkpoints: list[str | None] = []

    def __call__(self, value: float, step: int, total_steps: int | None, checkpoint: str | None) -> None:
        self.append((value, step, total_steps))
        self.checkpoints.append(checkpoint)
        if self.end is not None and step == self.end[0]:
            raise self.end[1]


def test_without_a_sweep_nothing_happens() -> None:
    assert report(0.5, step=1) is None  # type: ignore[func-returns-value]
    assert report(math.nan, step=0, total_steps=10) is None  # type: ignore[func-returns-value]


def test_the_function_is_not_hidden_by_a_module() -> None:
    """A subpackage of this name would take its place once a worker loads it."""
    for module in ("sweeper", "results.summary", "workers.worker"):
        importlib.import_module(f"harness.sweep.{module}")
    from harness.sweep import report as imported

    assert imported is report


@pytest.mark.parametrize("value", [
    0.5, np.float32(0.5), np.array([0.5]), np.array(0.5), torch.tensor(0.5), torch.tensor([[0.5]]), Decimal("0.5"),
    Fraction(1, 2), torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(0.5, requires_grad=True),
])  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_every_kind_of_number_is_received_as_a_float(value: Any) -> None:
    notes = Notes()
    with receive_reports(notes):
        report(value, step=np.int64(3), total_steps=torch.tensor(10))
        report(7, step=4)
    assert notes == [(0.5, 3, 10), (7.0, 4, None)]
    assert [type(each) for each in notes[0]] == [float, int, int]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_of_a_diverging_trial_are_received(value: float) -> None:
    notes = Notes()
    with receive_reports(notes):
        report(torch.tensor(value), step=1)
    assert str(notes[0][0]) == str(value)


@pytest.mark.parametrize("is_in_sweep", [False, True])
@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_wrong_value_is_refused_by_name(case: str, is_in_sweep: bool) -> None:
    value, message = BAD_VALUES[case]
    if not is_in_sweep and "converted" in message:
        report(value, step=1)  # it is not read
        return
    notes = Notes()
    with receive_reports(notes), pytest.raises(TypeError, match=f"report: .*{message}"):
        report(value, step=1)
    assert notes == []


@pytest.mark.parametrize("case", BAD_STEPS)
def test_a_wrong_step_is_refused_by_name(case: str) -> None:
    arguments, error, message = BAD_STEPS[case]
    with pytest.raises(error, match=f"^report: {message}"):
        report(0.5, **arguments)


def test_a_tensor_is_not_read_without_a_sweep() -> None:
    """A tensor on the meta device has no data, as one on a GPU has none yet."""
    value = torch.ones((), device="meta")
    report(value, step=1)
    with receive_reports(Notes()), pytest.raises(TypeError, match="cannot be converted"):
        report(value, step=1)


@pytest.mark.parametrize("kind", [Pruned, Paused, Interrupted])
def test_a_trial_ends_once_and_for_all(kind: type[Exception]) -> None:
    notes = Notes()
    notes.end = 2, kind("after 20% of the run")
    with receive_reports(notes):
        for step in range(1, 5):
            if step < 2:
                report(1.0, step=step)
                continue
            with pytest.raises(kind, match=r"^after 20% of the run$"):  # a loop that goes on after every error
                report(1.0, step=step)
    report(1.0, step=5)
    assert [step for _, step, _ in notes] == [1, 2]


def test_another_error_of_the_receiver_is_raised_once() -> None:
    notes = Notes()
    notes.end = 1, OSError("the storage is down")
    with receive_reports(notes):
        with pytest.raises(OSError, match="down"):
            report(1.0, step=1)
        report(1.0, step=2)
    assert len(notes) == 2


def test_receivers_nest_and_are_removed_after_an_error() -> None:
    outer, inner = Notes(), Notes()
    with receive_reports(outer):
        with suppress(ZeroDivisionError), receive_reports(inner):
            report(1.0, step=1)
            raise ZeroDivisionError
        report(2.0, step=2)
    report(3.0, step=3)
    assert (inner, outer) == ([(1.0, 1, None)], [(2.0, 2, None)])


def test_a_thread_of_the_trial_reports() -> None:
    notes = Notes()
    with receive_reports(notes):
        thread = threading.Thread(target=lambda: report(1.0, step=1))
        thread.start()
        thread.join()
    assert notes == [(1.0, 1, None)]


def test_only_the_first_process_of_a_training_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    with receive_reports(notes):
        monkeypatch.setenv("LOCAL_RANK", "1")
        report(1.0, step=1)
        monkeypatch.setenv("LOCAL_RANK", "0")
        report(2.0, step=1)
    assert notes == [(2.0, 1, None)]


def test_a_forked_child_does_not_report() -> None:
    """It shares the storage's connections with its parent, and its exceptions do not reach the runner."""
    notes = Notes()
    with receive_reports(notes):
        child = os.fork()
        if child == 0:
            try:
                report(1.0, step=1)
            finally:
                os._exit(len(notes))
        assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def reports_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file for the reports of this process, as if it was a trial."""
    monkeypatch.setattr("harness.sweep.reporting._listener", None)
    monkeypatch.setenv(REPORTS_VARIABLE, str(tmp_path / "reports.jsonl"))
    return tmp_path / "reports.jsonl"


def read_values(path: Path) -> list[float]:
    return [json.loads(line)["value"] for line in path.read_text().splitlines()]


def test_reports_outlive_a_full_disk(reports_file: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A disk that takes a part of a line, and then nothing for a while."""
    write, free = os.write, 80

    def write_some(file: int, data: bytes) -> int:
        nonlocal free
        if not free:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, data[:free])
        free -= written
        return written

    monkeypatch.setattr(os, "write", write_some)
    for step in range(1, 5):
        report(step / 2, step=step)
    assert not reports_file.read_bytes().endswith(b"\n")
    free = 1000
    report(2.5, step=5)
    assert read_values(reports_file) == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert capsys.readouterr().err.count("No space left on device; will report later") == 1


def test_reports_begin_a_line_after_a_process_that_was_killed(reports_file: Path) -> None:
    reports_file.write_text('{"value": 1.0}\n{"val')
    report(2.0, step=1)
    assert [line[:8] for line in reports_file.read_text().splitlines()] == ['{"value"', '{"val', '{"value"']


def test_a_checkpoint_is_received_as_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.chdir(tmp_path)
    with receive_reports(notes):
        for step, checkpoint in enumerate(["last.pt", tmp_path / "step-2", None, ""]):
            report(1.0, step=step, checkpoint=checkpoint)
    assert notes.checkpoints == [str(tmp_path / "last.pt"), str(tmp_path / "step-2"), None, None]


@pytest.mark.parametrize("is_in_sweep", [False, True])
@pytest.mark.parametrize("given", [3, b"last.pt", {"model": 1}, True])
def test_a_checkpoint_that_is_no_path_is_refused(given: Any, is_in_sweep: bool) -> None:
    notes, problem = Notes(), r"report: checkpoint: .* is a \w+, not a path; save it, and report its path"
    sweep = receive_reports(notes) if is_in_sweep else nullcontext()
    with sweep, pytest.raises(TypeError, match=problem):
        report(1.0, step=1, checkpoint=given)
    assert notes == []


def test_a_trial_that_is_continued_finds_its_checkpoint_in_children_too(tmp_path: Path) -> None:
    (path := tmp_path / "last.pt").touch()
    ask = [sys.executable, "-c", "from harness.sweep import resume_from; print(resume_from())"]
    assert resume_from() is None
    with receive_reports(Notes(), str(path)):
        assert resume_from() == str(path)
        assert subprocess.run(ask, capture_output=True, text=True).stdout == f"{path}\n"
        with receive_reports(Notes()):  # a sweep in this trial
            assert resume_from() is None
        path.unlink()
        assert resume_from() is None
    path.touch()
    assert resume_from() is None


def test_checkpoints_of_a_command_are_ignored(reports_file: Path) -> None:
    report(2.0, step=1, checkpoint="nowhere.pt")
    assert json.loads(reports_file.read_text()) == {"value": 2.0, "step": 1, "total_steps": None}
    assert resume_from() is None
