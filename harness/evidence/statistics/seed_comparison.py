"""Compare the final losses of two configurations over seeds."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.evidence.statistics.rank_tests import count_critical, mann_whitney_tail, signed_rank_tail
from harness.evidence.statistics.sample_differences import LARGEST_RATIO, compare_samples, find_smallest_pair_level

Status = Literal["better", "worse", "equivalent", "not shown"]
STATUSES: tuple[Status, ...] = ("not shown", "better", "worse", "equivalent")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class SeedComparison:
    """Result of comparing a candidate with a baseline; negative differences favor the candidate.

    `difference` is the difference of the means over the seeds that finished, [`low`, `high`] its interval at
    `confidence`, `n` the number of pairs, or of seeds of the smaller side. `p` is at most 1 - confidence exactly where
    the interval excludes zero. The ends are infinite, and `difference` and `p` NaN, where the seeds give no number.
    """

    status: Status
    difference: float
    low: float
    high: float
    p: float
    n: int
    n_baseline: int
    n_candidate: int
    diverged_baseline: int
    diverged_candidate: int
    baseline_mean: float
    candidate_mean: float
    paired: bool
    margin: float | None
    confidence: float
    method: str
    notes: tuple[str, ...]


def compare_losses(
    baseline: Iterable[Any],
    candidate: Iterable[Any],
    *,
    paired: bool = False,
    margin: float | None = None,
    confidence: float = CONFIDENCE,
) -> SeedComparison:
    """Compare final losses (lower is better) of runs of two configurations, each list over several seeds.

    "better" and "worse": the interval excludes zero. If the configurations are the same, "better" has probability at
    most 5%, whatever the distribution of losses over seeds, and about 2.5% with normal noise; likewise "worse". The
    interval is Welch's t interval (pairs: Student's), kept between exact rank intervals: see docs/evidence.md.
    "equivalent": two one-sided tests, each at 5%, place the difference within plus or minus `margin`; this has priority
    over "better" and "worse". "not shown": none of these; `notes` say what was missing.

    With `paired=True` the lists are in the same order of seeds. A claim needs at least 3 seeds a side, and equivalence
    of pairs 5: with 2, seeds that end in one of two basins would make a false "better" in 6% of comparisons.

    A diverged seed, given as NaN or infinity, counts as worse than any loss, and as equal to another diverged seed. The
    result then comes from the rank test alone, without pairing. A side of which a greater share diverged is never
    "better", since its mean over all seeds is infinite, and a comparison with diverged seeds is never "equivalent".
    `difference` is over the seeds that finished; the interval is infinite on the side that diverged more. A large
    finite loss such as 1e30 is a loss like others. Nothing is claimed that the difference of the means contradicts.

    Raises:
        ValueError: a loss is not a number, paired lists differ in length, or margin or confidence is out of range.
    """
    check_comparison_options(margin, confidence)
    sides = read_losses("baseline", baseline), read_losses("candidate", candidate)
    return compare_loss_arrays(*sides, paired, margin, 1 - confidence, 1 - confidence)


def compare_loss_arrays(
    baseline: np.ndarray,
    candidate: np.ndarray,
    paired: bool,
    margin: float | None,
    alpha: float,
    equivalence_alpha: float,
) -> SeedComparison:
    """Compare two arrays of losses, where infinity is a diverged seed, at the levels of the two kinds of claim."""
    sides = baseline, candidate
    if paired and len(baseline) != len(candidate):
        raise ValueError(
            f"candidate: {len(candidate)} losses, but baseline has {len(baseline)}; pairs need both of a seed"
        )
    means = [float(side[np.isfinite(side)].mean()) if np.isfinite(side).any() else math.nan for side in sides]
    status: Status = "not shown"
    difference, low, high, p = means[1] - means[0], -math.inf, math.inf, math.nan
    if min(map(len, sides)) >= 2:
        found = compare_samples(baseline[None], candidate[None], paired, margin, alpha, equivalence_alpha)
        status = STATUSES[int(found.codes[0])]
        difference, low, high, p = (float(x[0]) for x in (found.differences, found.low, found.high, found.p))
    notes = _collect_notes(baseline, candidate, paired, alpha)
    if status == "equivalent":
        notes.append(f"two one-sided tests, each at {equivalence_alpha:.3g}, place the difference within ±{margin:g}")
    elif margin is not None and paired and not count_critical(signed_rank_tail(len(baseline)), equivalence_alpha):
        notes.append(f"equivalence needs at least {math.ceil(-math.log2(equivalence_alpha))} pairs at this level")
    return SeedComparison(
        status=status, difference=difference, low=low, high=high, p=p, n=min(map(len, sides)),
        n_baseline=len(baseline), n_candidate=len(candidate),
        diverged_baseline=int(np.isinf(baseline).sum()), diverged_candidate=int(np.isinf(candidate).sum()),
        baseline_mean=means[0], candidate_mean=means[1],
        paired=paired, margin=margin, confidence=1 - alpha,
        method=_describe_method(sides, paired, alpha), notes=tuple(notes),
    )  # fmt: skip


def read_losses(side: str, losses: Iterable[Any]) -> np.ndarray:
    """Return the losses as an array in which diverged seeds are infinite."""
    if isinstance(losses, str | bytes) or not isinstance(losses, Iterable):
        raise ValueError(f"{side}: {losses!r}: not a list of losses")
    values = []
    for loss in losses:
        try:
            if isinstance(loss, str | bytes | bool):
                raise TypeError
            values.append(float(loss))
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{side}: {loss!r}: not a number; give a diverged seed as NaN") from None
    array = np.array(values, dtype=float)
    return np.where(np.isfinite(array), array, np.inf)


def check_comparison_options(margin: float | None, confidence: float) -> None:
    if margin is not None and not (margin > 0 and math.isfinite(margin)):
        raise ValueError(f"margin: {margin}: must be above 0, in the unit of the loss")
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence: {confidence}: must be above 0.5 and below 1, such as 0.95")


def _describe_method(sides: tuple[np.ndarray, np.ndarray], paired: bool, alpha: float) -> str:
    if any(np.isinf(side).any() for side in sides):
        return "exact Mann-Whitney test, diverged seeds as the greatest losses"
    if not paired:
        return "Welch's t interval, kept between exact Mann-Whitney intervals"
    if not count_critical(signed_rank_tail(len(sides[0])), alpha):
        return "paired t interval, kept to include all differences"
    return "paired t interval, kept between exact Wilcoxon signed-rank intervals"


def _collect_notes(baseline: np.ndarray, candidate: np.ndarray, paired: bool, alpha: float) -> list[str]:
    """Return what a reader of the result must know of the samples."""
    fewer, more = sorted((len(baseline), len(candidate)))
    if fewer < 2:
        return [f"{len(baseline)} against {len(candidate)} seeds cannot measure noise; run at least 3 of each"]
    notes, sides = [], {"baseline": baseline, "candidate": candidate}
    diverged = {name: int(np.isinf(side).sum()) for name, side in sides.items()}
    has_diverged = any(diverged.values())
    if paired and not has_diverged:
        can_reject = find_smallest_pair_level(fewer) <= alpha
    else:
        level = alpha / 2 if has_diverged else alpha
        can_reject = count_critical(mann_whitney_tail(len(baseline), len(candidate)), level) > 0
    if not can_reject:
        notes.append(
            f"too few seeds for a claim at this level, whatever the losses{'; run more' if fewer < 10 else ''}"
        )
        if not has_diverged:
            notes.append("the interval assumes normal noise and is extended to zero")
    notes += [
        f"{name}: {count} of {len(sides[name])} seeds diverged; each counts as worse than any loss"
        for name, count in diverged.items()
        if count
    ]
    if has_diverged:
        notes.append("the difference is of the means of the seeds that finished; the interval counts all seeds")
    constant = [name for name, side in sides.items() if np.isfinite(side).all() and len(set(side)) == 1]
    if constant:
        notes.append(f"{' and '.join(constant)}: the same loss for every seed; check that the seed changes the run")
    if paired and np.array_equal(baseline, candidate):
        notes.append("the losses are identical seed by seed; check that the change reached the training")
    if more > LARGEST_RATIO * fewer:
        notes.append("one side has more than twice the seeds of the other; the smaller side decides what can be shown")
    return notes
