"""Say where the direction of a sweep contradicts the name of its metric."""

from harness.importers.metric_directions import is_higher_better
from harness.sweep.programs.command.metrics import MetricSpec


def note_doubtful_direction(metric: MetricSpec) -> str:
    """Return a note if the name of a metric says that the other direction is meant, or else an empty string."""
    name = metric.metric or "validation loss"
    more_is_better = is_higher_better(name)
    if more_is_better is None or more_is_better == (metric.direction == "maximize"):
        return ""
    better, remedy = ("more", "add") if more_is_better else ("less", "leave out")
    return f"the sweep is to {metric.direction} {name}: if {better} is better, {remedy} --maximize"
