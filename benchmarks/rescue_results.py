"""Tables and a picture of benchmarks/rescue.py."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from harness.core.formatting import format_count
from harness.evidence import compare_losses
from harness.evidence.statistics.seed_comparison import SeedComparison
from harness.plotting import BLUE, GREEN, GREY, ORANGE, RED, make_figure, style_axes

ARMS = ("before", "after", "ours", "random")
ARM_COLORS = {"before": GREY, "after": ORANGE, "ours": BLUE, "random": GREEN}

Results = Mapping[str, Any]


def read_losses_by_arm(results: Results) -> dict[str, list[float]]:
    """Return the test losses of each arm in the order of its seeds, NaN for a run without one."""
    losses: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for part in sorted(results):
        arm, _, seed = part.partition(" ")
        if arm in ARMS and seed:
            loss = results[part]["test_loss"]
            losses[arm].append(math.nan if loss is None else float(loss))
    return losses


def compare_two_arms(results: Results, candidate: str, baseline: str) -> SeedComparison | None:
    """Compare the losses of two arms in pairs by seed; None before both are finished."""
    losses = read_losses_by_arm(results)
    sides = losses[baseline], losses[candidate]
    return compare_losses(*sides, paired=True) if sides[0] and len(sides[0]) == len(sides[1]) else None


def format_tables(records: Sequence[Results]) -> Iterator[str]:
    """Yield the tables of losses, of differences and of what rescue did, and a line that counts."""
    measured = [results for results in records if any(read_losses_by_arm(results).values())]
    yield "Mean loss on the test split over fresh seeds, with its 95% t interval:"
    yield ""
    yield format_row("system", "unit", *ARMS, "seeds")
    yield format_row(*["---"] * 7)
    for results in measured:
        losses = read_losses_by_arm(results)
        seeds = max(len(values) for values in losses.values())
        yield format_row(results["title"], results["unit"], *(format_mean(losses[arm]) for arm in ARMS), seeds)
    yield ""
    yield "Differences with their 95% intervals, in pairs by seed; negative favors ours:"
    yield ""
    yield format_row("system", *(f"ours - {arm}" for arm in ARMS if arm != "ours"))
    yield format_row(*["---"] * 4)
    for results in measured:
        cells = (format_comparison(compare_two_arms(results, "ours", arm)) for arm in ARMS if arm != "ours")
        yield format_row(results["title"], *cells)
    yield ""
    yield from format_rescues([results for results in records if "rescue" in results])
    yield ""
    yield count_verdicts(records)


def format_mean(losses: Sequence[float]) -> str:
    """Return the mean over the seeds that finished, with its interval and the number of those that did not."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return "none" if losses else "-"
    low, high = compute_interval(finite)
    diverged = f", {len(losses) - len(finite)} diverged" if len(finite) < len(losses) else ""
    return f"{np.mean(finite):.4f} [{low:.4f}, {high:.4f}]{diverged}"


def compute_interval(losses: Sequence[float]) -> tuple[float, float]:
    """Return the 95% t interval of the mean; not a number with a single loss."""
    mean, error = (
        float(np.mean(losses)),
        float(np.std(losses, ddof=1) / math.sqrt(len(losses))) if losses[1:] else math.nan,
    )
    half = float(stats.t.ppf(0.975, len(losses) - 1)) * error if losses[1:] else math.nan
    return mean - half, mean + half


def format_comparison(found: SeedComparison | None) -> str:
    if found is None:
        return "-"
    return f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}], {found.status}"


def format_rescues(records: Sequence[Results]) -> Iterator[str]:
    """Yield a table of what rescue found, searched and recommended."""
    yield "What rescue did:"
    yield ""
    yield format_row(
        "system", "with the original's bug", "diagnosed", "searched", "trials", "tokens", "ended", "recommends",
        "random search found",
    )  # fmt: skip
    yield format_row(*["---"] * 9)
    for results in records:
        rescue, searched, fault = results["rescue"], results.get("random", {}), results.get("fault")
        sweep = rescue["sweep"]
        yield format_row(
            results.get("title", ""),
            format_fault(fault["ending"]) if fault else "none planted",
            ", ".join(one["kind"] for one in rescue["diagnoses"]) or "nothing",
            ", ".join(f"`{part['override']}`" for part in rescue["ranges"]) or rescue["source"] or "nothing",
            sweep.get("n_measured", 0),
            f"{format_count(sweep['tokens'])} of {format_count(searched.get('tokens', 0))}" if sweep else "-",
            rescue["ending"]["result"],
            format_config(rescue["values"]) or "the baseline",
            format_config(searched.get("values", {})) or "-",
        )


def format_fault(ending: Mapping[str, str]) -> str:
    """Return what rescue found, without what was expected and what to do."""
    return f"{ending['result']}: {ending['sentence'].rpartition('searched: ')[2].partition('; expected')[0]}"


def format_config(values: Mapping[str, Any]) -> str:
    return " ".join(
        f"`{key}={value:.3g}`" if isinstance(value, float) else f"`{key}={value}`" for key, value in values.items()
    )


def count_verdicts(records: Sequence[Results]) -> str:
    """Return a sentence that counts how ours compares with the reports' repairs, and the bugs that were named."""
    found = [one for one in (compare_two_arms(results, "ours", "after") for results in records) if one]
    counts = {status: sum(one.status == status for one in found) for status in ("better", "not shown", "worse")}
    faults = [results["fault"]["ending"]["result"] for results in records if "fault" in results]
    return (
        f"Ours against after, of {len(found)} systems: better {counts['better']}, no difference shown "
        f"{counts['not shown']}, worse {counts['worse']}. Stopped at the planted bug: {faults.count('fault')} of "
        f"{len(faults)}."
    )


def format_row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def draw_picture(records: Sequence[Results], path: Path) -> None:
    """Draw a panel for each system: the losses of the seeds, and their mean with its interval, for each arm."""
    measured = [results for results in records if any(read_losses_by_arm(results).values())]
    figure = make_figure(2.6 * len(measured) + 0.4, 4.2)
    figure.text(0.01, 0.95, "plateau rescue on five trainings that had plateaued", fontsize=15, fontweight="bold")
    subtitle = "loss on the test split: five fresh seeds (dots), mean with 95% interval; equal tokens in both searches"
    figure.text(0.01, 0.9, subtitle, fontsize=10.5, color=GREY)
    for index, results in enumerate(measured):
        axes = figure.add_subplot(1, len(measured), index + 1)
        draw_losses(axes, results)
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.17, top=0.76, wspace=0.34)
    figure.savefig(path, dpi=120)


def draw_losses(axes: Any, results: Results) -> None:
    """Draw the losses of a system in one panel, and below it whether rescue stopped at the planted bug."""
    style_axes(axes)
    losses = {
        arm: [loss for loss in values if math.isfinite(loss)] for arm, values in read_losses_by_arm(results).items()
    }
    for place, (arm, values) in enumerate(losses.items()):
        if not values:
            continue
        color, mean = ARM_COLORS[arm], float(np.mean(values))
        spread = np.linspace(-0.16, 0.16, len(values))
        axes.scatter(place + spread, values, s=14, color=color, alpha=0.55, linewidths=0)
        low, high = compute_interval(values)
        axes.errorbar(
            place, mean, yerr=[[mean - low], [high - mean]], fmt="_", color=color, markersize=22, capsize=5, lw=2
        )
        axes.annotate(f"{mean:.3g}", (place, max([high, *values])), xytext=(0, 5), textcoords="offset points",
                      ha="center", fontsize=9.5, color=color)  # fmt: skip
    axes.set_xticks(range(len(losses)), losses, fontsize=9.5)
    axes.set_xlim(-0.5, len(losses) - 0.5)
    axes.margins(y=0.15)
    axes.grid(axis="x", visible=False)
    axes.set_title(results["title"], loc="left", fontsize=12, fontweight="bold", pad=20)
    axes.text(0, 1.03, results["unit"], transform=axes.transAxes, fontsize=9.5, color=GREY)
    if results.get("fault", {}).get("ending", {}).get("result") == "fault":
        axes.text(0.5, -0.19, "with its bug: stopped", transform=axes.transAxes, fontsize=9.5, color=RED, ha="center")
