"""Decisions on the fresh runs of candidates, replayed in the order in which the log made them due.

A decision on a candidate is due when it has as many fresh runs as a claim at its level needs, and again when it has
twice as many. Between these numbers the last decision stands, so that a loop that adds one run after another until it
likes the answer does not get more decisions than those that the levels are meant for.
"""

from collections import Counter
from dataclasses import dataclass

from harness.evidence.judging.error_budget import count_needed_runs, find_rerun_level
from harness.evidence.judging.judgement import Evidence
from harness.evidence.judging.noise_tests import FEWEST_REPEATS, compare_fresh_runs
from harness.evidence.judging.references import find_reference
from harness.evidence.judging.run_log import LoggedConfig, RunLog


@dataclass(frozen=True)
class FreshDecision:
    """The last decision on the fresh runs of a candidate: None before the first one.

    Args:
        number: Its place among all decisions on fresh runs so far; of the next one if there was none.
        due: Number of fresh runs at which the next one is due; None if no number is enough.
    """

    evidence: Evidence | None
    number: int
    due: int | None


def find_fresh_decision(log: RunLog, candidate: LoggedConfig, reference: LoggedConfig) -> FreshDecision:
    """Return the last decision on the candidate's fresh runs against the reference."""
    configs = {config.key: config for config in log.configs if not config.is_baseline and len(config.values) > 1}
    references = {key: find_reference(log, config) for key, config in configs.items()} | {candidate.key: reference}
    n_runs: Counter[str] = Counter()
    due: dict[str, int] = {}
    shown: list[bool] = []
    evidence, number = None, 0
    for run in log.runs:
        config, other = configs.get(run.config), references.get(run.config)
        if config is None or other is None or run not in config.measured or len(other.values) < FEWEST_REPEATS:
            continue
        n_runs[config.key] += 1
        n_fresh, level = n_runs[config.key] - 1, find_rerun_level(shown)
        needed = due.get(config.key) or count_needed_runs(len(other.values), level)
        if needed is not None and n_fresh >= needed:
            found = compare_fresh_runs(log, config.values[1 : n_fresh + 1], other.values, level)
            shown.append(found.shows_better)
            due[config.key] = 2 * n_fresh
            if config.key == candidate.key:
                evidence, number = found, len(shown)
        if run is candidate.runs[-1]:
            break
    next_due = due.get(candidate.key)
    if next_due is None and len(reference.values) >= FEWEST_REPEATS:
        next_due = count_needed_runs(len(reference.values), find_rerun_level(shown))
    return FreshDecision(evidence, number or len(shown) + 1, next_due)
