"""A small report with every kind of block and span."""

from harness.evidence.charts.figure_data import Bars, Curves, Interval, Intervals, Line, PointGroup, Points
from harness.evidence.report.document import (
    Bare,
    BulletList,
    Claim,
    Code,
    CommandLines,
    Name,
    Paragraph,
    Quote,
    Report,
    ReportFigure,
    ReportSection,
    ReportTable,
)
from harness.evidence.report.numbers import Given, NumberBook, Reading


def make_example_report() -> Report:
    """Return a report on a study that never was; its names and values are hard to write in markdown and HTML."""
    book = NumberBook()
    before = book.read("baseline.val_loss", 3.6123, "nats/token", Reading("outputs/a|b", "best_val_loss", 400), "loss")
    after = book.read("best.val_loss", 3.4987, "nats/token", Reading("outputs/<c>", "best_val_loss", 380), "loss")
    difference = book.compute("best.difference", "best.val_loss - baseline.val_loss", "nats/token", "signed")
    relative = book.compute("best.relative", "best.difference / abs(baseline.val_loss) * 100", "%", "signed percent")
    hours = book.read("cost.hours", 1.25, "hours", Reading("study", "seconds of all trials"))
    book.read("price", 2.5, "USD/hour", Given("--price-per-hour"), "money")
    money = book.compute("cost.money", "cost.hours * price", "USD", "money")
    curves = Curves(
        (
            Line("baseline", "baseline", (1e5, 2e5, 3e5), (4.1, 3.8, 3.6123)),
            Line("best: trial 7", "best", (1e5, 2e5, 3e5), (4.0, 3.6, 3.4987)),
            Line("trial 3", "trial", (1e5, 2e5), (4.4, 4.2)),
        ),
        "tokens",
        "validation loss (nats/token)",
    )
    rates = Points(
        (
            PointGroup("completed", "trial", (1e-4, 1e-3), (3.6, 3.5)),
            PointGroup("best: trial 7", "best", (6e-4,), (3.4987,)),
            PointGroup("diverged", "diverged", (0.1,), (None,)),
        ),
        "learning rate",
        "validation loss (nats/token)",
        is_x_log=True,
    )
    bars = Bars(("optimizer.lr", "lora.rank"), (0.83, 0.17), "importance", is_percent=True)
    intervals = Intervals(
        (Interval("trial 7", -0.11, -0.15, -0.07), Interval("trial 2", -0.02, -0.08, float("inf"))),
        "difference of test loss (nats/token)",
        margin=0.02,
    )
    verdict = ("Nothing was confirmed: the best of the trials is lower by ", difference, ", ", relative, ".")
    sections = (
        ReportSection("summary", "Summary", (Paragraph(verdict, is_verdict=True),)),
        ReportSection(
            "configs",
            "Configs before and after",
            (
                ReportTable(
                    (("setting",), ("before",), ("after",)),
                    (((Code("optimizer.lr"),), (Code("1e-3"),), (Code("6e-4 | `x` <b>"),)),),
                    ("Generated from the two resolved configs.",),
                ),
                ReportTable(
                    (("",), ("validation loss (nats/token)",)),
                    (((Name("baseline"),), (Bare(before),)), ((Name("trial 7"),), (Bare(after),))),
                ),
                CommandLines(("python run.py optimizer.lr=6e-4", "plateau confirm 'a|b'")),
            ),
        ),
        ReportSection(
            "figures",
            "Figures",
            tuple(
                ReportFigure(
                    name, data, (f"{name}: from ", before, " to ", after, "."), ("One seed each.",), ("a", "b")
                )
                for name, data in (("curves", curves), ("rates", rates), ("importance", bars), ("verdict", intervals))
            ),
        ),
        ReportSection(
            "cost",
            "Cost",
            (
                BulletList(
                    (
                        (hours, ", ", money, "."),
                        (Name("trial 7"), " is ", Claim("better", "best.difference < 0"), "."),
                        ("Diagnosed: ", Quote("loss rose by 12% <at step 300>", "outputs/a|b"), "."),
                    )
                ),
            ),
        ),
    )
    return Report("Report on <study|*x*>", sections, book.numbers, {"study": "<study|*x*>"})
