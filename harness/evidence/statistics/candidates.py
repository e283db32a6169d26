"""Compare several candidates with one baseline."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from harness.evidence.statistics.seed_comparison import (
    CONFIDENCE,
    SeedComparison,
    check_comparison_options,
    compare_loss_arrays,
    read_losses,
)


def compare_candidates(
    baseline: Iterable[Any],
    candidates: Mapping[str, Iterable[Any]],
    *,
    paired: bool = False,
    margin: float | None = None,
    confidence: float = CONFIDENCE,
    n_trials: int | None = None,
    n_without_result: int = 0,
) -> dict[str, SeedComparison]:
    """Compare each candidate with the baseline, corrected for their number by Holm's method (Holm 1979).

    The probability that any candidate is falsely called better, or worse, is that of one comparison. Candidates are
    tested in the order of their p values, the first at level alpha / m, the next at alpha / (m - 1), and so on until
    one is not shown. Each comparison's interval and `confidence` are those of its step; its `p` is adjusted, to be
    compared with 1 - `confidence` of the call. Equivalence is tested at alpha / m. Unlike Dunnett's method, Holm's
    needs no equal variances and makes no assumption on how the comparisons depend on each other.

    `n_without_result` is the number of further candidates whose runs have no result. They count in the correction
    as candidates that are not shown: their level is handed on to no other.

    `n_trials` is the number of trials from which the candidates were chosen, for the notes. Losses of fresh seeds need
    no correction for that choice. For losses that the choice itself was based on, this correction is not enough.

    Raises:
        ValueError: as `compare_losses`; or `n_trials` is smaller than the number of candidates.
    """
    check_comparison_options(margin, confidence)
    if n_trials is not None and n_trials < len(candidates):
        raise ValueError(f"n_trials: {n_trials}: fewer than the {len(candidates)} candidates")
    alpha, total = 1 - confidence, len(candidates) + n_without_result
    kept = read_losses("baseline", baseline)
    losses = {name: read_losses(name, values) for name, values in candidates.items()}

    def compare_at(values: np.ndarray, divisor: int) -> SeedComparison:
        return compare_loss_arrays(kept, values, paired, margin, alpha / divisor, alpha / total)

    p_values = {name: compare_at(values, total).p for name, values in losses.items()}
    order = sorted(losses, key=lambda name: (math.isnan(p_values[name]), p_values[name]))
    notes = [f"corrected for {total} candidates by Holm's method"] if total > 1 else []
    if n_trials is not None:
        notes.append(f"chosen from {n_trials} trials")
    found, divisor, adjusted = {}, total, 0.0
    for step, name in enumerate(order):
        if adjusted <= alpha:
            divisor = total - step
        adjusted = max(adjusted, min(1.0, p_values[name] * (total - step)))
        comparison = compare_at(losses[name], divisor)
        p = math.nan if math.isnan(p_values[name]) else adjusted
        found[name] = replace(comparison, p=p, notes=(*comparison.notes, *notes))
    return {name: found[name] for name in losses}
