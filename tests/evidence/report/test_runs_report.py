"""Reports on runs that other programs logged."""

from harness.diagnosis.history import History, RunFacts
from harness.evidence.charts.figure_data import Curves
from harness.evidence.comparing.run_comparison import ComparedRun
from harness.evidence.report.document import Report, ReportTable, iterate_figures, plain_text
from harness.evidence.report.runs_report import SourceRun, make_runs_report


def make_epoch_log(start: float) -> History:
    history = History(RunFacts(steps_unit="epochs", steps_per_epoch=1.0))
    history.add_points("val/loss", [(epoch, start - 0.1 * epoch) for epoch in range(1, 6)])
    return history


def report_on(*histories: History) -> Report:
    runs = [SourceRun(f"{index}.log", ComparedRun(history)) for index, history in enumerate(histories)]
    return make_runs_report(runs, None, {})


def test_logs_that_count_epochs_have_curves_and_reach_losses_by_epochs() -> None:
    report = report_on(make_epoch_log(4.0), make_epoch_log(3.8))
    [figure] = iterate_figures(report)
    assert isinstance(figure.data, Curves)
    assert (figure.data.x_label, [line.label for line in figure.data.lines]) == ("epochs", ["A", "B"])
    [table] = [block for section in report.sections if section.key == "reached" for block in section.blocks
               if isinstance(block, ReportTable)]  # fmt: skip
    assert [plain_text(cell) for cell in table.rows[0]] == ["epochs", "4 to 5", "2 to 3"]


def test_a_single_run_has_its_curve() -> None:
    [figure] = iterate_figures(report_on(make_epoch_log(4.0)))
    assert figure.name == "curves"
