"""The pictures of a run: drawn from its record, and never at its expense."""

import math
import struct
from pathlib import Path

from harness.observers.figures import FigureWriter
from harness.observers.metrics_writer import MetricsWriter
from tests.observers.sample_events import run_end, run_start, sample_run, send_events, step_end


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", head[16:24])


def test_a_run_leaves_three_pictures_of_readable_size(tmp_path) -> None:
    send_events([MetricsWriter(), FigureWriter()], sample_run(tmp_path))
    pictures = sorted((tmp_path / "figures").iterdir())
    assert [picture.name for picture in pictures] == ["grad_norm.png", "loss.png", "lr.png"]
    for picture in pictures:
        width, height = png_size(picture)
        assert 600 <= width <= 1600
        assert 400 <= height <= 1200
        assert 8_000 < picture.stat().st_size < 200_000


def test_a_run_that_diverged_at_once_is_drawn_as_far_as_it_went(tmp_path, capsys) -> None:
    lost = [step_end(1, math.nan, grad_norm=math.nan, skips=1), run_end("diverged", "the loss is nan", step=1)]
    send_events([MetricsWriter(), FigureWriter()], iter([run_start(tmp_path, log_every=1), *lost]))
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["loss.png", "lr.png"]
    assert capsys.readouterr().err == ""


def test_without_a_record_there_is_a_warning_and_no_error(tmp_path, capsys) -> None:
    send_events([FigureWriter()], iter([run_start(tmp_path), run_end()]))
    assert "warning: no figures" in capsys.readouterr().err
