"""plateau diagnose --follow: each finding once, while the log grows, and the report at the end."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness import cli
from harness.commands.follow import follow_log
from harness.commands.run_reports import Request
from harness.core.errors import ConfigError
from harness.diagnosis.given_facts import GivenFacts
from harness.diagnosis.history import History
from harness.diagnosis.thresholds import Thresholds
from harness.importers.sources.growing import GrowingLog


def make_line(step: int, loss: float) -> str:
    return f"step {step} loss {loss:.4f} lr 9e-4\n"


def make_rise(first: int, last: int) -> str:
    """Return the lines of a loss that falls up to step 400 and then rises far above its start."""
    return "".join(make_line(step, max(6 - step / 100, step / 40 - 8)) for step in range(first, last, 10))


class WrittenLog(GrowingLog):
    """A log to which another part is written after each look at it; a signal follows the last one."""

    def __init__(self, path: Path, parts: Sequence[str | Callable[[], object]]) -> None:
        super().__init__(path)
        self._parts, self._is_due = iter(parts), False

    def read_changed(self) -> list[History] | None:
        self._is_due = True
        return super().read_changed()

    def wait(self, seconds: float) -> None:
        if not self._is_due:
            super().wait(seconds)
            return
        part, self._is_due = next(self._parts, None), False
        if part is None:
            signal.raise_signal(signal.SIGINT)
        elif isinstance(part, str):
            with self.path.open("a") as file:
                file.write(part)
        else:
            part()


def make_request(failing: Sequence[str] = ()) -> Request:
    return Request(Thresholds(), [], GivenFacts(), None, frozenset(failing))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "train.log"


def test_findings_are_printed_once_and_a_signal_ends_with_the_report(path, capsys) -> None:
    log = WrittenLog(path, [make_rise(first, first + 100) for first in range(10, 1010, 100)])
    (report,) = follow_log(log, "train.log", make_request(), interval_s=1e-3)
    printed = capsys.readouterr()
    assert printed.out.count("divergence: ") == 1
    assert "    try\n      a learning rate of 3e-4, a third of the present one\n" in printed.out
    assert report.kinds == {"divergence"}
    assert report.history.facts.status == "running"
    assert len(report.history["train/loss"]) == 100
    assert "ending" in printed.err


def test_failing_kind_ends_at_once(path) -> None:
    log = WrittenLog(path, [make_rise(first, first + 100) for first in range(10, 2010, 100)])
    (report,) = follow_log(log, "train.log", make_request(["divergence"]), interval_s=1e-3)
    assert report.history.last_step < 1200


def test_rotated_log_is_followed(path, capsys) -> None:
    parts = [make_rise(10, 310), lambda: path.rename(path.with_suffix(".1")), make_rise(310, 610), make_rise(610, 1010)]
    (report,) = follow_log(WrittenLog(path, parts), "train.log", make_request(), interval_s=1e-3)
    assert len(report.history["train/loss"]) == 100
    assert report.kinds == {"divergence"}


def test_log_that_begins_again_is_reported_anew(path, capsys) -> None:
    parts = [make_rise(10, 1010), lambda: path.write_text(make_rise(10, 310))]
    (report,) = follow_log(WrittenLog(path, parts), "train.log", make_request(), interval_s=1e-3)
    assert "began again with another run" in capsys.readouterr().out
    assert report.kinds == set()


def test_flat_start_of_a_run_of_unknown_length_is_no_finding_yet(path, capsys) -> None:
    flat = "".join(make_line(step, 6.9 + 0.01 * (step % 20 == 0)) for step in range(10, 210, 10))
    fall = "".join(make_line(step, 6.9 - (step - 200) / 100) for step in range(210, 510, 10))
    follow_log(WrittenLog(path, [flat, fall]), "train.log", make_request(), interval_s=1e-3)
    assert "never learnt: " not in capsys.readouterr().out


def test_look_without_news_prints_nothing(path, capsys) -> None:
    parts = [make_line(step, 6 - step / 1000) for step in range(10, 300, 10)]
    follow_log(WrittenLog(path, parts), "train.log", make_request(), interval_s=1e-3)
    before_report = capsys.readouterr().out.removesuffix("\n\n")
    assert "" not in before_report.splitlines()


def test_failed_looks_are_warned_of_once(path, capsys) -> None:
    good = [make_line(step, 6 - step / 1000) for step in range(10, 60, 10)]
    parts = ["all\n", "is\n", "well\n", *good, lambda: path.write_text("words\n"), "alone\n", "again\n", *good]
    follow_log(WrittenLog(path, parts), "train.log", make_request(), interval_s=1e-3)
    assert capsys.readouterr().err.count("waiting for more: ") == 1


def test_findings_look_like_those_of_a_loop(path, capsys) -> None:
    follow_log(WrittenLog(path, [make_rise(10, 1010)]), "train.log", make_request(), interval_s=1e-3)
    assert "\ndiagnosis · step 400 · divergence: " in capsys.readouterr().out


def test_log_that_stays_empty_is_named(path, capsys) -> None:
    (path.parent / "readme.txt").write_text("all is well\n")
    log = WrittenLog(path.parent / "readme.txt", ["", "", ""])
    with pytest.raises(ConfigError, match="no step and loss found"):
        follow_log(log, "readme.txt", make_request(), interval_s=1e-3)


def test_run_of_ours_is_followed_to_its_end(finished, tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    start, *lines = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text(start)
    log = WrittenLog(folder / "metrics.jsonl", ["".join(lines[:9]), "".join(lines[9:])])
    (report,) = follow_log(log, "run", make_request(), interval_s=1e-3)
    assert report.history.facts.status == "completed"


def test_standard_input_is_followed_to_its_end(capsys, monkeypatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reader))

    def write() -> None:
        with os.fdopen(writer, "w") as file:
            for first in range(10, 1010, 100):
                file.write(make_rise(first, first + 100))
                file.flush()

    thread = threading.Thread(target=write)
    thread.start()
    assert cli.main(["diagnose", "-", "--follow", "--fail-on", "diagnosis"]) == 1
    thread.join()
    out = capsys.readouterr().out
    assert out.startswith("following standard input")
    assert "\n\nstandard input\ntext log standard input: " in out


def test_input_that_ends_after_the_last_look_is_not_running(path) -> None:
    class EndingLog(WrittenLog):
        has_ended = False

    log = EndingLog(path, [make_rise(10, 310), lambda: setattr(log, "has_ended", True)])
    (report,) = follow_log(log, "train.log", make_request(), interval_s=1e-3)
    assert report.history.facts.status is None


@pytest.mark.parametrize(("extra", "message"), [(["--json"], "no --json"), (["b.log"], "one log")])
def test_follow_takes_one_log_and_no_json(extra, message, capsys) -> None:
    assert cli.main(["diagnose", "a.log", "--follow", *extra]) == 2
    assert f"--follow takes {message}" in capsys.readouterr().err


def test_transformers_run_ends_the_wait(tmp_path) -> None:
    state = {"global_step": 20, "max_steps": 40, "log_history": [{"step": n, "loss": 5 - n / 20} for n in range(1, 21)]}
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps(state))
    done = {**state, "global_step": 40}
    log = WrittenLog(path, [lambda: path.write_text(json.dumps(done))])
    (report,) = follow_log(log, "trainer_state.json", make_request(), interval_s=1e-3)
    assert report.history.facts.status == "completed"
