"""Figures of a report on a study: its parameters, and which curves are drawn."""

from pathlib import Path

from harness.evidence.charts.figure_data import Curves, PointPanels
from harness.evidence.report.document import ReportFigure, iterate_figures, plain_text
from harness.evidence.report.study_report import make_study_report
from harness.evidence.report.study_source import load_study_source, select_drawn_trials
from tests.evidence.report.study_folders import make_sweep_folder


def make_figures(folder: Path) -> dict[str, ReportFigure]:
    report = make_study_report(load_study_source(folder), None, {})
    return {figure.name: figure for figure in iterate_figures(report)}


def test_every_searched_parameter_is_drawn_with_every_measured_trial(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "study", 3, n_trials=30)
    source = load_study_source(folder)
    figure = make_figures(folder)["parameters"]
    assert isinstance(figure.data, PointPanels)
    rates, widths = figure.data.panels
    assert (rates.x_label, rates.is_x_log, widths.x_label) == ("lr", True, "width")
    counts = source.summary.counts
    assert counts["pruned"]
    assert counts["diverged"]
    for panel in (rates, widths):
        groups = {group.role: group for group in panel.groups}
        assert sum(len(group.x) for group in panel.groups) == source.summary.n_measured
        assert len(groups["pruned"].x) == counts["pruned"]
        assert groups["diverged"].y == (None,) * counts["diverged"]
        assert groups["diverged"].label == f"{counts['diverged']} diverged"
        assert groups["best"].y == source.summary.best_trial.values  # type: ignore[union-attr]
    assert "val/loss by lr, width; the lowest is " in plain_text(figure.alt)
    assert "Diverged trials have no value" in plain_text(figure.caption)


def test_parameters_are_drawn_for_a_maximized_objective(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "study", 0, direction="maximize", objective="accuracy", values=[1, 3, 2])
    assert "the highest is " in plain_text(make_figures(folder)["parameters"].alt)


def test_one_trial_has_no_figure_of_parameters(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "study", n_trials=1)
    assert "parameters" not in make_figures(folder)


def test_curves_are_those_of_baseline_best_and_others_from_the_whole_sweep(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "study", 3, n_trials=40)
    source = load_study_source(folder)
    drawn = [trial.number for trial in select_drawn_trials(source, 10)]
    best = source.summary.best_trial
    assert best is not None
    assert len(drawn) == len({*drawn}) == 10
    assert {0, best.number} <= {*drawn}
    assert max(drawn) > 30
    figure = make_figures(folder)["curves"]
    assert isinstance(figure.data, Curves)
    assert len(figure.data.lines) == source.summary.n_measured
