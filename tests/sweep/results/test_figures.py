"""Figures of real studies."""

import struct
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot

from harness.sweep.results import figures
from harness.sweep.results.figures import draw_study_figures
from tests.sweep.studies import (
    add_every_outcome,
    ask_conditional_trial,
    ask_trial,
    complete_outside_trial,
    complete_trial,
    diverge_trial,
    fail_trial,
    new_study,
    pause_trial,
    prune_trial,
)


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", head[16:24])


def test_figures_of_every_outcome(tmp_path, capsys) -> None:
    state = dict(matplotlib.rcParams), pyplot.get_fignums()
    study = add_every_outcome(new_study())
    for _ in range(8):
        complete_trial(study, ask_trial(study))
    written = draw_study_figures(study, tmp_path / "figures")
    assert names(written) == ["history", "curves", "importance", "parallel", "slices", "lr"]
    assert sorted((tmp_path / "figures").iterdir()) == sorted(written)  # no temporary files
    for path in written:
        width, height = png_size(path)
        assert abs(width - 1600) <= 2
        assert 700 <= height <= 1600
        assert 8_000 < path.stat().st_size < 500_000
    assert capsys.readouterr().err == ""
    assert (dict(matplotlib.rcParams), pyplot.get_fignums()) == state


def test_too_few_trials_for_figures(tmp_path, capsys) -> None:
    study = new_study()
    assert draw_study_figures(study, tmp_path) == []
    complete_trial(study, ask_trial(study))
    diverge_trial(study, ask_trial(study))
    fail_trial(study, ask_trial(study))
    assert draw_study_figures(study, tmp_path) == []
    complete_trial(study, ask_trial(study))
    assert names(draw_study_figures(study, tmp_path)) == ["history", "curves", "parallel", "slices", "lr"]
    assert capsys.readouterr().err == ""


def test_several_objectives(tmp_path, capsys) -> None:
    study = new_study(("best_val_loss", "tokens"))
    for number in range(9):
        complete_trial(study, ask_trial(study), 4 - number / 10, 1000 * (number % 4))
    diverge_trial(study, ask_trial(study))
    assert names(draw_study_figures(study, tmp_path)) == ["pareto", "importance", "parallel", "slices", "lr"]
    assert capsys.readouterr().err == ""


def test_conditional_ranges_outside_baseline_and_extreme_losses(tmp_path, capsys) -> None:
    study = new_study()
    complete_outside_trial(study, 3.9, **{"optimizer.lr": 1.0, "lora.target_modules": None})
    for _ in range(12):
        complete_trial(study, ask_conditional_trial(study))
    complete_trial(study, ask_conditional_trial(study), 1e9)
    complete_trial(study, ask_conditional_trial(study), float("inf"))
    prune_trial(study, ask_conditional_trial(study))
    diverge_trial(study, ask_conditional_trial(study))
    assert len(draw_study_figures(study, tmp_path)) == 6
    assert capsys.readouterr().err == ""


def test_conditional_ranges_of_different_kinds(tmp_path, capsys) -> None:
    study = new_study()
    for number in range(6):
        trial = study.ask()
        if trial.suggest_categorical("optimizer", ["adamw", "sgd"]) == "adamw":
            trial.suggest_float("optimizer.lr @ optimizer=adamw", 1e-4, 1e-1, log=True)
        else:
            trial.suggest_categorical("optimizer.lr @ optimizer=sgd", [0.1, 1.0])
        complete_trial(study, trial, 3.0 + number)
    assert names(draw_study_figures(study, tmp_path)) == ["history", "curves", "parallel", "slices", "lr"]
    assert capsys.readouterr().err == ""


def pause_at_half(study, trial) -> None:
    pause_trial(study, trial, 50)


@pytest.mark.parametrize("status", ["completed", "paused", "pruned", "diverged"])
def test_learning_curves_show_every_status(tmp_path, status: str, monkeypatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", {"curves": figures.FIGURES["curves"]})

    def draw_curves(folder: str, *, with_trial: bool) -> bytes:
        study = new_study()
        for lr in (1e-2, 2e-2):
            complete_trial(study, ask_trial(study, lr=lr, rank=8, clip=1.0))
        if with_trial:
            end = {
                "completed": complete_trial,
                "paused": pause_at_half,
                "pruned": prune_trial,
                "diverged": diverge_trial,
            }[status]
            end(study, ask_trial(study, lr=1e-3))
        draw_study_figures(study, tmp_path / folder)
        return (tmp_path / folder / "curves.png").read_bytes()

    without = draw_curves("without", with_trial=False)
    assert without == draw_curves("again", with_trial=False) != draw_curves("with", with_trial=True)


def test_no_lr_figure_without_an_lr(tmp_path) -> None:
    study = new_study()
    for rank in (2, 4, 8):
        trial = study.ask()
        trial.suggest_int("lora.rank", rank, rank + 1)
        complete_trial(study, trial, 3.0 + rank)
    assert "lr" not in names(draw_study_figures(study, tmp_path))


def test_failed_figure_is_a_warning(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(figures.FIGURES, "curves", lambda data: data.missing)
    study = new_study()
    for _ in range(2):
        complete_trial(study, ask_trial(study))
    assert names(draw_study_figures(study, tmp_path)) == ["history", "parallel", "slices", "lr"]
    assert "warning: could not draw curves.png" in capsys.readouterr().err


@pytest.mark.parametrize(("direction", "scale"), [("minimize", "log"), ("maximize", "linear")])
def test_only_losses_have_a_logarithmic_axis(direction, scale, tmp_path, monkeypatch) -> None:
    study = new_study(["accuracy"], [direction])
    for value in (0.01, 0.4, 0.9):
        complete_trial(study, ask_trial(study), value)
    drawn = {}
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.setdefault(path.stem, figure))
    draw_study_figures(study, tmp_path)
    assert drawn["lr"].axes[0].get_yscale() == scale
    assert "Learning rate and accuracy" in [text.get_text() for text in drawn["lr"].findobj(matplotlib.text.Text)]


def test_paused_trials_do_not_look_pruned(tmp_path, monkeypatch) -> None:
    drawn = {}
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.setdefault(path.stem, figure))
    study = new_study()
    for lr in (1e-2, 2e-2):
        complete_trial(study, ask_trial(study, lr=lr, rank=8, clip=1.0))
    pause_trial(study, ask_trial(study, lr=5e-3, rank=8, clip=1.0), 12, 4.0)
    prune_trial(study, ask_trial(study, lr=1e-3, rank=8, clip=1.0))
    draw_study_figures(study, tmp_path)
    ends = {line.get_marker(): line for line in drawn["curves"].axes[0].lines}
    assert ends["d"].get_xydata().tolist() == [[12, 4]]
    assert ends["d"].get_color() != ends["v"].get_color()
    labels = [text.get_text() for text in drawn["lr"].findobj(matplotlib.text.Text)]
    assert {"lr, paused", "lr, pruned"} <= set(labels)
