"""Intervals and p values of the difference of two samples of losses, for many comparisons at once.

The interval is Welch's t interval (pairs: Student's), kept between two exact rank intervals. See docs/evidence.md.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from harness.evidence.statistics.rank_tests import count_critical, mann_whitney_tail, signed_rank_tail

OUTER_SHARE = 1 / 3
"""Level of the outer rank test as a share of that of the inner one. With it, 95% intervals miss in 5% under normal
noise; with 1/2, the level that a rank test has alone, in 6%, since either of two tests may then reject."""
LARGEST_RATIO = 2
"""Ratio of group sizes up to which the outer rank test is used. Beyond it, it rejects too often if spreads differ."""
MIN_RELATIVE_ERROR = 1e-13
"""Standard error relative to the losses; below it, it is rounding."""


@dataclass(frozen=True)
class SampleDifferences:
    """Differences, candidate minus baseline, of each of several comparisons (first axis).

    `mean` is over the seeds that finished. `error` is its standard error; NaN where no t interval exists. `steps` are
    the sorted differences of all pairs of losses; for paired samples, the averages of any two differences. `tail` is
    the distribution of the number of them above zero if nothing differs. `excess` is the candidate's share of diverged
    seeds minus the baseline's. `smallest_level` is the lowest level at which the interval may exclude zero.
    `outer_share` is None where no outer rank test is used.
    """

    mean: np.ndarray
    error: np.ndarray
    freedom: np.ndarray
    steps: np.ndarray
    tail: np.ndarray
    excess: np.ndarray
    has_diverged: bool
    smallest_level: float
    outer_share: float | None

    def swap_sides(self) -> "SampleDifferences":
        """Return the differences, baseline minus candidate."""
        return replace(self, mean=-self.mean, steps=-self.steps[:, ::-1], excess=-self.excess)


@dataclass(frozen=True)
class SampleResults:
    """Results of several comparisons; `codes` are 0 not shown, 1 better, 2 worse, 3 equivalent."""

    codes: np.ndarray
    differences: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def compare_samples(
    baseline: np.ndarray,
    candidate: np.ndarray,
    paired: bool,
    margin: float | None,
    alpha: float,
    equivalence_alpha: float,
) -> SampleResults:
    """Compare the rows of two arrays [comparisons, seeds] of at least 2 seeds, where infinity is a diverged seed.

    Paired rows with a diverged seed are compared without their pairing. The signed-rank test cannot show at five pairs
    that all candidates diverged; Mann-Whitney's can, and seeds that matter to both sides only make it conservative.
    """
    diverged = np.isinf(baseline).any(1) | np.isinf(candidate).any(1)
    results = np.empty((5, len(diverged)))
    for rows, has_diverged in ((~diverged, False), (diverged, True)):
        if not rows.any():
            continue
        if paired and not has_diverged:
            found = measure_paired(baseline[rows], candidate[rows])
        else:
            found = measure_unpaired(baseline[rows], candidate[rows], has_diverged)
        swapped = found.swap_sides()
        high, low = find_upper_bound(found, alpha) + 0.0, 0.0 - find_upper_bound(swapped, alpha)  # no negative zeros
        codes = np.where(high < 0, 1, np.where(low > 0, 2, 0))
        if margin is not None:
            bound = find_equivalence_bound(found, equivalence_alpha)
            other = find_equivalence_bound(swapped, equivalence_alpha)
            codes = np.where((bound < margin) & (other < margin), 3, codes)
        p = np.minimum(find_one_sided_p(found), find_one_sided_p(swapped))
        results[:, rows] = codes, found.mean, low, high, p
    return SampleResults(results[0].astype(int), *results[1:])


def measure_paired(baseline: np.ndarray, candidate: np.ndarray) -> SampleDifferences:
    differences = candidate - baseline
    n_rows, n_pairs = differences.shape
    first, second = np.triu_indices(n_pairs)
    with np.errstate(over="ignore", invalid="ignore"):
        error = differences.std(1, ddof=1) / np.sqrt(n_pairs)
        steps = np.sort(differences[:, first] / 2 + differences[:, second] / 2, axis=1)
    # Seeds that only add the same to both sides leave equal differences, which show more than unequal ones.
    is_constant = (np.ptp(baseline, axis=1) == 0) | (np.ptp(candidate, axis=1) == 0)
    error = np.where(is_constant, _drop_zero_errors(error, baseline, candidate), error)
    return SampleDifferences(
        mean=differences.mean(1), error=error,
        freedom=np.full(n_rows, n_pairs - 1.0), steps=steps, tail=signed_rank_tail(n_pairs),
        excess=np.zeros(n_rows), has_diverged=False,
        smallest_level=find_smallest_pair_level(n_pairs), outer_share=OUTER_SHARE,
    )  # fmt: skip


def find_smallest_pair_level(n_pairs: int) -> float:
    """Return the lowest two-sided level at which so many pairs can show a difference.

    Below 0.5**n the signed-rank test cannot reject, and the t interval stands alone. If the losses of a pair vary
    independently given their seed, all n differences are equal up to a jitter, and below zero, with probability up to
    0.25**n, which no spread tells from a real difference: where that exceeds half the level, nothing is shown.
    """
    return 2 * 0.25**n_pairs


def find_fewest_pairs(level: float) -> int:
    """Return the smallest number of pairs that can show a difference at a two-sided level."""
    return next(n_pairs for n_pairs in itertools.count(2) if find_smallest_pair_level(n_pairs) <= level)


def measure_unpaired(baseline: np.ndarray, candidate: np.ndarray, has_diverged: bool) -> SampleDifferences:
    n_baseline, n_candidate = baseline.shape[1], candidate.shape[1]
    tail = mann_whitney_tail(n_baseline, n_candidate)
    with np.errstate(all="ignore"):
        one, other = baseline.var(1, ddof=1) / n_baseline, candidate.var(1, ddof=1) / n_candidate
        share = one / (one + other)
        steps = (candidate[:, :, None] - baseline[:, None, :]).reshape(len(baseline), -1)
        mean = _finite_mean(candidate) - _finite_mean(baseline)
    if has_diverged:
        outer_share: float | None = 1 / 2
    else:
        is_balanced = max(n_baseline, n_candidate) <= LARGEST_RATIO * min(n_baseline, n_candidate)
        outer_share = OUTER_SHARE if is_balanced else None
    return SampleDifferences(
        mean=mean, error=_drop_zero_errors(np.sqrt(one + other), baseline, candidate),
        freedom=1 / (share**2 / (n_baseline - 1) + (1 - share) ** 2 / (n_candidate - 1)),
        steps=np.sort(np.where(np.isnan(steps), 0.0, steps), axis=1),  # two diverged seeds are a tie
        tail=tail,
        excess=np.isinf(candidate).mean(1) - np.isinf(baseline).mean(1),
        has_diverged=has_diverged, smallest_level=float(tail[0]), outer_share=outer_share,
    )  # fmt: skip


def find_upper_bound(found: SampleDifferences, alpha: float) -> np.ndarray:
    """Return the upper end of the interval at confidence 1 - alpha; infinite where the data give none.

    The inner rank interval is the widest where its test cannot reject at `alpha`; below `smallest_level` the t interval
    is extended to zero. Every interval contains the difference of the means, which is infinite if the candidate
    diverged on a greater share.
    """
    outer = np.full(len(found.mean), np.inf)
    if found.outer_share and count_critical(found.tail, alpha * found.outer_share):
        outer = rank_upper_bound(found, alpha * found.outer_share)
    if found.has_diverged:
        bound = outer
    else:
        inner = np.zeros(len(found.mean))
        if found.smallest_level <= alpha * (1 + 1e-9):
            inner = rank_upper_bound(found, max(alpha, found.tail[0]))
        widest = np.maximum(found.steps[:, -1], 0.0)  # where the losses have no spread
        t_bound = found.mean + stdtrit(found.freedom, 1 - alpha / 2) * found.error
        bound = np.fmin(np.maximum(np.where(np.isnan(t_bound), widest, t_bound), inner), outer)
    return np.where((found.excess > 0) | np.isnan(found.mean), np.inf, np.fmax(bound, found.mean))


def find_one_sided_p(found: SampleDifferences) -> np.ndarray:
    """Return the p value of "candidate lower than baseline", as the level alpha at which the interval excludes zero."""
    n_against = (found.steps >= 0).sum(1)
    rank_p = found.tail[np.minimum(n_against, len(found.tail) - 1)]
    with np.errstate(divide="ignore", invalid="ignore"):  # equal differences have no error
        p = 2 * stdtr(found.freedom, found.mean / found.error)
    inner_p = np.where(n_against == 0, found.smallest_level, rank_p)
    p = np.where(np.isnan(p), np.inf, np.maximum(p, inner_p))
    if found.outer_share:
        p = np.minimum(p, rank_p / found.outer_share)
    is_contradicted = (found.excess > 0) | ~(found.mean < 0)
    return np.where(is_contradicted, 1.0, np.minimum(p, 1.0))


def find_equivalence_bound(found: SampleDifferences, alpha: float) -> np.ndarray:
    """Return the upper end of the interval at 1 - 2 alpha that two one-sided tests at `alpha` need within the margin.

    Both the t test and the exact rank test must reject. Infinite with diverged seeds or too few of them.
    """
    if found.has_diverged or not count_critical(found.tail, alpha):
        return np.full(len(found.mean), np.inf)
    t_bound = found.mean + stdtrit(found.freedom, 1 - alpha) * found.error
    return np.fmax(np.fmax(t_bound, rank_upper_bound(found, alpha)), found.mean)


def rank_upper_bound(found: SampleDifferences, alpha: float) -> np.ndarray:
    """Return the upper end of the exact rank interval, one-sided at `alpha`."""
    return found.steps[:, -count_critical(found.tail, alpha)]


def _finite_mean(losses: np.ndarray) -> np.ndarray:
    """Return the mean of each row's finite losses; infinite where there are none."""
    finite = np.isfinite(losses)
    return np.where(finite.any(1), np.where(finite, losses, 0.0).sum(1) / finite.sum(1), np.inf)


def _drop_zero_errors(error: np.ndarray, baseline: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Return NaN for standard errors that are infinite or zero up to rounding."""
    scale = np.maximum(np.abs(baseline).max(1), np.abs(candidate).max(1))
    with np.errstate(invalid="ignore"):
        return np.where((error > MIN_RELATIVE_ERROR * scale) & np.isfinite(error), error, np.nan)
