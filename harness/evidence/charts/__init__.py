"""Charts as SVG: text stays text, colors follow the page, and the same input gives the same bytes."""

from harness.evidence.charts.figure_data import (
    Bars,
    Curves,
    FigureData,
    Gaps,
    Intervals,
    PointPanels,
    Points,
    Seeds,
)
from harness.evidence.charts.line_charts import draw_curves
from harness.evidence.charts.point_charts import draw_panels, draw_points
from harness.evidence.charts.row_charts import draw_bars, draw_gaps, draw_intervals, draw_seeds
from harness.evidence.charts.svg_chart import Chart


def draw_chart(data: FigureData) -> Chart:
    """Return the chart of any kind of figure."""
    match data:
        case Curves():
            return draw_curves(data)
        case Points():
            return draw_points(data)
        case PointPanels():
            return draw_panels(data)
        case Bars():
            return draw_bars(data)
        case Intervals():
            return draw_intervals(data)
        case Seeds():
            return draw_seeds(data)
        case Gaps():
            return draw_gaps(data)
