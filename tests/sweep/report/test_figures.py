"""The pictures of a study: drawn from real ones, and never at their expense."""

import struct
from pathlib import Path

import pytest

from harness.sweep.report import figures
from harness.sweep.report.figures import draw_study_figures
from tests.sweep.studies import (
    add_every_outcome,
    ask_conditional_trial,
    ask_trial,
    complete_outside_trial,
    complete_trial,
    diverge_trial,
    fail_trial,
    new_study,
    prune_trial,
)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", head[16:24])


def test_a_study_leaves_six_pictures_of_readable_size(tmp_path, capsys) -> None:
    study = add_every_outcome(new_study())
    for _ in range(8):
        complete_trial(study, ask_trial(study))
    drawn = draw_study_figures(study, tmp_path / "figures")
    assert names(drawn) == ["history.png", "curves.png", "importance.png", "parallel.png", "slices.png", "lr.png"]
    assert sorted((tmp_path / "figures").iterdir()) == sorted(drawn)  # nothing half written beside them
    for path in drawn:
        width, height = size(path)
        assert 600 <= width <= 1600
        assert 350 <= height <= 1200
        assert 8_000 < path.stat().st_size < 300_000
    assert capsys.readouterr().err == ""


def test_too_few_trials_for_a_picture_leave_it_out_in_silence(tmp_path, capsys) -> None:
    study = new_study()
    assert draw_study_figures(study, tmp_path) == []
    complete_trial(study, ask_trial(study))
    diverge_trial(study, ask_trial(study))
    fail_trial(study, ask_trial(study))
    assert draw_study_figures(study, tmp_path) == []
    complete_trial(study, ask_trial(study))
    assert names(draw_study_figures(study, tmp_path)) == [
        "history.png",
        "curves.png",
        "parallel.png",
        "slices.png",
        "lr.png",
    ]
    assert capsys.readouterr().err == ""


def test_several_objectives_have_a_front_instead_of_a_history(tmp_path, capsys) -> None:
    study = new_study(("best_val_loss", "tokens"))
    for number in range(9):
        complete_trial(study, ask_trial(study), 4 - number / 10, 1000 * (number % 4))
    diverge_trial(study, ask_trial(study))
    assert names(draw_study_figures(study, tmp_path)) == [
        "pareto.png",
        "importance.png",
        "parallel.png",
        "slices.png",
        "lr.png",
    ]
    assert capsys.readouterr().err == ""


def test_conditional_ranges_outsiders_and_losses_of_all_sizes_are_drawn(tmp_path, capsys) -> None:
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


@pytest.mark.parametrize("status", ["completed", "pruned", "diverged"])
def test_each_way_to_end_changes_the_learning_curves(tmp_path, status: str, monkeypatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", {"curves": figures.FIGURES["curves"]})

    def curves(folder: str, *, with_it: bool) -> bytes:
        study = new_study()
        for lr in (1e-2, 2e-2):
            complete_trial(study, ask_trial(study, lr=lr, rank=8, clip=1.0))
        if with_it:
            {"completed": complete_trial, "pruned": prune_trial, "diverged": diverge_trial}[status](
                study, ask_trial(study, lr=1e-3)
            )
        draw_study_figures(study, tmp_path / folder)
        return (tmp_path / folder / "curves.png").read_bytes()

    assert curves("without", with_it=False) == curves("again", with_it=False) != curves("with", with_it=True)


def test_a_sweep_without_a_learning_rate_has_no_picture_of_it(tmp_path) -> None:
    study = new_study()
    for rank in (2, 4, 8):
        trial = study.ask()
        trial.suggest_int("lora.rank", rank, rank + 1)
        complete_trial(study, trial, 3.0 + rank)
    assert "lr.png" not in names(draw_study_figures(study, tmp_path))


def test_matplotlib_is_left_as_it_was(tmp_path) -> None:
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams), pyplot.get_fignums()
    study = new_study()
    for _ in range(9):
        complete_trial(study, ask_trial(study))
    draw_study_figures(study, tmp_path)
    assert (dict(matplotlib.rcParams), pyplot.get_fignums()) == before


def test_a_picture_that_cannot_be_drawn_is_warned_of_and_the_others_are_drawn(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(figures.FIGURES, "curves", lambda drawn: drawn.no_such_thing)
    study = new_study()
    for _ in range(2):
        complete_trial(study, ask_trial(study))
    assert names(draw_study_figures(study, tmp_path)) == ["history.png", "parallel.png", "slices.png", "lr.png"]
    assert "warning: no picture of the sweep's curves" in capsys.readouterr().err
