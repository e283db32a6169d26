"""metrics.jsonl: complete, valid, and intact when something goes wrong."""

import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.startup import read_start_and_first_step
from harness.core.files import is_locked
from harness.observers.metrics_writer import MetricsWriter
from harness.record import metrics_file
from tests.observers.sample_events import run_end, run_start, sample_run, send_events, step_end


def read_lines(folder: Path) -> list[dict]:
    """Return the entries, parsed as strict JSON."""

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    return [
        json.loads(line, parse_constant=refuse)
        for line in (folder / metrics_file.METRICS_FILE).read_text().splitlines()
    ]


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size in bytes of every file that this process writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_entries_of_a_whole_run(tmp_path: Path) -> None:
    send_events([MetricsWriter()], sample_run(tmp_path))
    start, constants, before, notice, *measured, end = read_lines(tmp_path)
    assert start["kind"] == "start"
    assert start["params"]["optimizer.lr"] == "0.001"
    assert start["constants"] == {"uniform": 8.32, "unigram": 6.11}
    assert start["dataset"]["name"] == "pydoc_qa"
    assert constants["metrics"] == {"constant/uniform": 8.32, "constant/unigram": 6.11}
    assert before["metrics"]["val/loss"] == 8.0
    assert notice["text"] == "the warm-up rounds to 0 steps"
    assert [line["step"] for line in measured] == [5, 10, 10, 15, 20, 20]
    assert (end["status"], end["reason"], end["best_step"], end["seconds"]) == ("completed", "", 20, 12.0)
    assert end["artifacts"] == ["config.yaml", "command.txt"]
    instants = [line["at_ms"] for line in read_lines(tmp_path)]
    assert instants == sorted(instants)
    assert instants[0] > 1.7e12  # milliseconds


def test_every_line_is_written_at_once(tmp_path: Path) -> None:
    observer = MetricsWriter()
    observer(run_start(tmp_path, log_every=1))
    for step in range(1, 4):
        observer(step_end(step))
        assert read_lines(tmp_path)[-1]["step"] == step


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-310, 0.1 + 0.2])
def test_numbers_survive_the_round_trip(tmp_path, value: float) -> None:
    observer = MetricsWriter()
    observer(run_start(tmp_path, total_steps=1))
    observer(step_end(1, value))
    assert read_lines(tmp_path)
    *_, (entry, _) = metrics_file.read_entries(tmp_path / metrics_file.METRICS_FILE)
    assert str(entry["metrics"]["train/loss"]) == str(value)


def test_incomplete_line_is_not_read_until_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / metrics_file.METRICS_FILE
    first, second = (metrics_file.encode_entry({"kind": "notice", "text": text}) for text in ("one", "two"))
    path.write_bytes(first + second[:-3])
    [(entry, offset)] = metrics_file.read_entries(path)
    assert (entry["text"], offset) == ("one", len(first))
    path.write_bytes(first + second)
    assert [entry["text"] for entry, _ in metrics_file.read_entries(path, offset)] == ["two"]


def test_lines_rejected_by_a_full_disk_are_written_later(tmp_path, capsys) -> None:
    observer, path = MetricsWriter(), tmp_path / metrics_file.METRICS_FILE
    observer(run_start(tmp_path, log_every=1))
    with limit_file_size(path.stat().st_size + 100):
        for step in range(1, 4):
            observer(step_end(step))
        assert is_locked(path) is True
        assert [entry["kind"] for entry, _ in metrics_file.read_entries(path)] == ["start", "metrics"]
    observer(step_end(4))
    observer(run_end(step=4))
    observer.close()
    assert capsys.readouterr().err.count("will write later") == 1
    assert [line.get("step") for line in read_lines(tmp_path)] == [None, 0, 1, 2, 3, 4, 4]
    assert read_lines(tmp_path)[-1]["status"] == "completed"


def test_disk_that_stays_full_does_not_end_the_run(tmp_path, capsys) -> None:
    observer, path = MetricsWriter(), tmp_path / metrics_file.METRICS_FILE
    observer(run_start(tmp_path, log_every=1))
    with limit_file_size(path.stat().st_size):
        observer(step_end(1))
        observer(run_end(step=1))
        observer.close()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert is_locked(path) is False
    assert len(read_lines(tmp_path)) == 2


def test_startup_benchmark_finds_the_start_and_the_first_step(tmp_path: Path) -> None:
    send_events([MetricsWriter()], sample_run(tmp_path))
    recorded = read_lines(tmp_path)
    step = next(line for line in recorded if line.get("step") == 5)
    expected = (recorded[0]["at_ms"] / 1000, step["at_ms"] / 1000)
    assert read_start_and_first_step(tmp_path / metrics_file.METRICS_FILE) == expected


def test_file_is_locked_until_the_observer_is_closed(tmp_path: Path) -> None:
    observer = MetricsWriter()
    observer(run_start(tmp_path))
    assert is_locked(tmp_path / metrics_file.METRICS_FILE) is True
    observer(run_end())
    assert is_locked(tmp_path / metrics_file.METRICS_FILE) is True
    observer.close()
    assert is_locked(tmp_path / metrics_file.METRICS_FILE) is False


def test_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    send_events([MetricsWriter()], sample_run(tmp_path))
    before = (tmp_path / metrics_file.METRICS_FILE).read_bytes()
    with pytest.raises(FileExistsError):
        MetricsWriter()(run_start(tmp_path))
    assert (tmp_path / metrics_file.METRICS_FILE).read_bytes() == before
