"""Levels at which the claims of a whole loop are tested, so that any of them is false with probability at most 5%.

Sources: spending of an error budget over hypotheses that come one after another: Foster & Stine 2008; passing the level
of a rejected hypothesis on: fallback procedure, Wiens 2003; both online: Tian & Ramdas 2021.
"""

from collections.abc import Iterable

from harness.evidence.statistics.rank_tests import count_critical, mann_whitney_tail

LOOP_ERROR = 0.05
ONE_RUN_ERROR = 0.005
"""Share of LOOP_ERROR for claims from single runs; the rest of it covers noise with heavier tails than assumed."""
RERUN_ERROR = LOOP_ERROR - ONE_RUN_ERROR
ONE_RUN_PACE = 20
"""Number of tries that half of ONE_RUN_ERROR is for."""
MOST_RUNS = 25


def find_one_run_level(try_number: int) -> float:
    """Return the one-sided level for the single run of a try, the first of which has the number 1.

    The levels of all tries, however many, sum up to ONE_RUN_ERROR.
    """
    after = try_number + ONE_RUN_PACE
    return ONE_RUN_ERROR * ONE_RUN_PACE / (after * (after - 1))


def find_rerun_level(earlier: Iterable[bool]) -> float:
    """Return the level for the fresh runs of a candidate; `earlier` says of each one before whether it was shown.

    The k-th candidate that is rerun has the level RERUN_ERROR / (k (k + 1)), and that of the one before if this was
    shown to be better.
    """
    level, inherited = RERUN_ERROR / 2, 0.0
    for number, was_shown in enumerate(earlier, 1):
        inherited = level if was_shown else 0.0
        level = RERUN_ERROR / ((number + 1) * (number + 2)) + inherited
    return level


def count_needed_runs(n_reference: int, level: float) -> int | None:
    """Return how many fresh runs a candidate needs for a claim against so many of the reference; None if too many."""
    for n_runs in range(2, MOST_RUNS + 1):
        if n_reference and count_critical(mann_whitney_tail(n_reference, n_runs), level):
            return n_runs
    return None
