"""Tables of benchmarks/sweep.py: the cost of a sweep until the median best of the stock's sweeps."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.sweep_runs import TrajectoryPoint, first_reaching, format_number

Result = Mapping[str, Any]


def format_cost_table(results: Sequence[Result]) -> Iterator[str]:
    """Yield a table with a row for each task and arm, for the tasks whose stock has been run."""
    yield "Cost until the median of the stock's best losses, as a share of a whole stock sweep; median (quartiles)."
    yield "Fresh: mean loss of each winner on 3 seeds. Never: sweeps that ended above the target."
    yield ""
    yield format_row("task", "arm", "seeds", "tokens", "never", "seconds", "best loss", "fresh", "trials", "command, s")
    yield format_row(*["---"] * 10)
    for task in dict.fromkeys(result["task"] for result in results):
        of_task = [result for result in results if result["task"] == task]
        stock = [result for result in of_task if result["arm"] == "stock"]
        for arm in dict.fromkeys(result["arm"] for result in of_task if stock):
            yield format_arm(task, arm, [result for result in of_task if result["arm"] == arm], stock)


def format_arm(task: str, arm: str, results: Sequence[Result], stock: Sequence[Result]) -> str:
    """Return the row of one arm of a task."""
    target = statistics.median(read_points(result)[-1].best_loss for result in stock)
    tokens, seconds = compute_shares(results, stock, target)
    n_trials = [sum(result["trials"].values()) for result in results]
    return format_row(
        f"{task}, to {target:.4f}",
        arm,
        len(results),
        format_quartiles(tokens, 2),
        f"{sum(map(math.isinf, tokens)) / len(tokens):.0%}",
        format_quartiles(seconds, 2),
        format_quartiles([read_points(result)[-1].best_loss for result in results], 4),
        format_quartiles([mean_fresh_loss(result) for result in results if result["fresh"]], 4),
        format_quartiles(n_trials, 0),
        format_quartiles([result["command_seconds"] for result in results], 0),
    )


def compute_shares(
    results: Sequence[Result], stock: Sequence[Result], target: float
) -> tuple[list[float], list[float]]:
    """Return the tokens and the seconds of each sweep until the target, relative to the median stock sweep."""
    whole = [read_points(result)[-1] for result in stock]
    all_tokens = statistics.median(point.tokens for point in whole)
    all_seconds = statistics.median(point.seconds for point in whole)
    reached = [first_reaching(read_points(result), target) for result in results]
    return [point.tokens / all_tokens for point in reached], [point.seconds / all_seconds for point in reached]


def read_points(result: Result) -> list[TrajectoryPoint]:
    return [TrajectoryPoint(**{**point, "best_loss": float(point["best_loss"])}) for point in result["points"]]


def mean_fresh_loss(result: Result) -> float:
    """Return the mean loss of the winner's fresh runs; infinite if one of them diverged."""
    return statistics.mean(math.inf if loss is None else loss for loss in result["fresh"].values())


def format_quartiles(values: Sequence[float], digits: int) -> str:
    """Return the median and the quartiles, each a value or the mean of two that may be infinite."""
    if not values:
        return "-"
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 4], ordered[-(-3 * (len(ordered) - 1) // 4)]
    cells = [format_number(value, digits) for value in (statistics.median(ordered), low, high)]
    return f"{cells[0]} ({cells[1]} to {cells[2]})"


def format_row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"
