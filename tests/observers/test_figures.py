"""Figures drawn at the end of a run."""

import math
import struct
from pathlib import Path

import pytest

from harness.observers.figures import FigureWriter
from tests.observers.sample_events import run_end, run_start, sample_run, send_events, step_end


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", head[16:24])


def test_figures_of_a_run(tmp_path: Path) -> None:
    send_events([FigureWriter()], sample_run(tmp_path))
    figures = sorted((tmp_path / "figures").iterdir())
    assert [figure.name for figure in figures] == ["grad_norm.png", "loss.png", "lr.png"]
    for figure in figures:
        width, height = png_size(figure)
        assert abs(width - 1600) <= 2
        assert 700 <= height <= 1200
        assert 8_000 < figure.stat().st_size < 300_000


def test_figures_of_a_run_that_diverged_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [step_end(1, math.nan, grad_norm=math.nan, skips=1), run_end("diverged", "the loss is nan", step=1)]
    send_events([FigureWriter()], iter([run_start(tmp_path, log_every=1), *events]))
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["loss.png", "lr.png"]
    assert capsys.readouterr().err == ""


def test_figure_that_cannot_be_saved_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "figures").touch()
    send_events([FigureWriter()], iter([run_start(tmp_path, log_every=1), step_end(1), run_end()]))
    assert "warning: figures not drawn" in capsys.readouterr().err
