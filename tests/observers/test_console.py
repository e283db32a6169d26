"""Output in a terminal and in a file."""

import math
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.events import FinalTest, OutOfMemory
from harness.core.task import Metric
from harness.observers import console
from harness.observers.console import ConsolePrinter, format_header, format_metrics, format_run_end
from tests.observers.sample_events import eval_end, run_end, run_start, sample_run, send_events, step_end

ROOT = Path(__file__).parents[2]


def test_plain_output(tmp_path, capsys) -> None:
    send_events([ConsolePrinter()], sample_run(tmp_path))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    head, *_ = text = out.splitlines()
    assert head == tmp_path.name
    assert "baselines   uniform 8.320 · unigram 6.110" in out
    assert "grad clip 1.0" in out
    evaluations = [line.split(" · ")[0] for line in text if "±" in line]
    assert evaluations == ["step 0", "step 10", "step 20"]
    assert "step 10 · val loss 3.777 ± 0.013 nats/token (best)" in text
    assert "the warm-up rounds to 0 steps" in text
    assert "completed after 12 s · step 20 · best val loss 3.000 at step 20" in text
    assert f"folder: {tmp_path}" in text
    assert text[-1].endswith("plateau ui")


def test_progress_shows_only_metrics_measured_so_far(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    observer = ConsolePrinter()
    observer(run_start(tmp_path, log_every=2))
    observer(step_end(1))
    assert capsys.readouterr().out.splitlines()[-1] == "step 1/20"
    observer(step_end(2))
    second = capsys.readouterr().out.splitlines()[-1]
    assert "step 2/20 · loss 2.000 · lr 2.00e-03 · grad norm 1.500 · clipped 100% · 400 tokens/s" in second
    assert "val" not in second
    assert second.endswith(" left")


def test_worse_evaluation_and_failed_run(tmp_path, capsys) -> None:
    observer = ConsolePrinter()
    tracked = {**run_start(tmp_path).params, "tracking.uri": "sqlite:////data/runs.db"}
    observer(run_start(tmp_path, params=tracked))
    observer(replace(eval_end(30, 3.5, 3.25), best_step=20))
    observer(OutOfMemory(31, 16, "tried to allocate"))
    observer(run_end("failed", "RuntimeError: boom", best_val_loss=math.inf))
    out = capsys.readouterr().out
    assert "(best 3.250 at step 20)" in out
    assert "out of memory, micro-batches of 16 are split" in out
    assert "failed (RuntimeError: boom) after 12 s · step 20\n" in out
    assert "plateau ui --uri sqlite:////data/runs.db" in out


def test_final_test(tmp_path, capsys) -> None:
    observer = ConsolePrinter()
    observer(run_start(tmp_path))
    metrics = {"loss": Metric(3.5, "nats/token", 0.012), "perplexity": Metric(33.1, "1/token"),
               "coverage": Metric(1.0, "fraction of test tokens")}  # fmt: skip
    observer(FinalTest(20, 2000, 10, metrics))
    observer(replace(run_end(), test_loss=3.5))
    out = capsys.readouterr().out
    assert "test loss 3.500 ± 0.012 nats/token (weights of step 10) · perplexity 33.10\n" in out
    assert " · test loss 3.500\n" in out


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://me:secret@server:5000", "open http://server:5000"),
        ("postgresql://me:secret@db/runs", "plateau ui --uri postgresql://db/runs"),
        ("sqlite:///my runs/runs.db", "plateau ui --uri 'sqlite:///{here}/my runs/runs.db'"),
        ("mlruns", "plateau ui --uri mlruns"),
    ],
)
def test_command_that_shows_the_run(tmp_path, monkeypatch, uri: str, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    lines = list(format_run_end(run_end(), run_start(tmp_path, params={"tracking.uri": uri})))
    label = max(index for index, line in enumerate(lines) if line.startswith("compare with other runs:"))
    assert " ".join(map(str.strip, lines[label:])) == f"compare with other runs: {expected.format(here=tmp_path)}"


def read_until_closed(terminal: int) -> str:
    """Return all that was written to a pseudo-terminal whose other end is closed."""
    chunks = []
    with suppress(OSError):  # how Linux reports the end
        while chunk := os.read(terminal, 4096):
            chunks.append(chunk)
    return b"".join(chunks).decode()


def test_live_panel_in_a_terminal(tmp_path, monkeypatch) -> None:
    keyboard, screen = os.openpty()
    monkeypatch.setattr(console, "LIVE_INTERVAL_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(screen, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        send_events([ConsolePrinter()], sample_run(tmp_path, total_steps=6))
        monkeypatch.undo()
    shown = read_until_closed(keyboard)
    os.close(keyboard)
    assert "step 3/6" in shown
    assert "\x1b[2K" in shown  # the panel is erased and redrawn
    assert shown.rstrip().endswith("plateau ui")
    assert "val loss" in shown


def test_closed_pipe_does_not_end_the_run(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.observers.console import ConsolePrinter;"
        "from harness.observers.metrics_writer import MetricsWriter;"
        "from tests.observers.sample_events import sample_run, send_events;"
        "send_events([MetricsWriter(), ConsolePrinter()], sample_run(Path(sys.argv[1]), 20))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    assert '"kind": "end"' in (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]


def test_clip_fraction_of_zero_is_not_shown() -> None:
    assert list(format_metrics({"train/grad_norm": 0.5, "train/clip_fraction": 0.0})) == ["grad norm 0.5000"]


def test_header_says_how_the_data_was_read(tmp_path: Path) -> None:
    dataset = {"name": "FieldFiles", "digest": "d", "shape": "8 samples · x and y of 1 and 2 channels on a grid of 9"}
    lines = [*format_header(run_start(tmp_path, dataset=dataset))]
    assert lines[1:3] == [
        "data        FieldFiles · d · 8 samples ·",
        "            x and y of 1 and 2 channels on a grid of 9",
    ]
