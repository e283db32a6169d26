"""Rows of a log in which the training loss is not finite, though it is again in later ones."""

from typing import NamedTuple

import numpy as np

from harness.diagnosis.history import History

PLACEHOLDER_SHARE = 0.8  # of the rows with a loss, that are equally far apart: the rows between them log something else
MIN_PLACEHOLDER_ROWS = 3
MIN_OFTEN_ROWS, OFTEN_SHARE = 5, 1 / 3  # not finite, of all rows since the first of them


class LostRows(NamedTuple):
    """The `n_lost` rows of `n_rows` that are not finite, between finite ones: the first at `step`, and what follows."""

    n_lost: int
    n_rows: int
    n_since: int  # rows from the first one on
    last_good_step: int
    before: float
    step: int
    back_step: int
    back: float

    @property
    def is_often(self) -> bool:
        """Return whether there are too many for skipped updates."""
        return self.n_lost >= MIN_OFTEN_ROWS and self.n_lost >= OFTEN_SHARE * self.n_since


def find_lost_rows(history: History) -> LostRows | None:
    """Return the rows of a log that has ended; None without any, or if they only log something else.

    Rows before the first finite loss, and after the last one, are no part of this.
    """
    has_ended = bool(history.facts.source) or history.facts.status is not None
    steps, values = history["train/loss"]
    finite = np.flatnonzero(np.isfinite(values))
    if not has_ended or len(finite) < 2:
        return None
    gaps = np.diff(finite)
    n_lost = int((gaps - 1).sum())
    if not n_lost or _is_regular(gaps):
        return None
    at = int(np.argmax(gaps > 1))
    good, back = int(finite[at]), int(finite[at + 1])
    n_since = int(finite[-1]) - good
    return LostRows(
        n_lost, len(values), n_since, int(steps[good]), float(values[good]), int(steps[good + 1]), int(steps[back]),
        float(values[back]),
    )  # fmt: skip


def _is_regular(gaps: np.ndarray) -> bool:
    """Return whether the finite rows are equally far apart, as those of a loss that is logged every few rows."""
    usual = int(np.median(gaps))
    return usual > 1 and len(gaps) >= MIN_PLACEHOLDER_ROWS and bool((gaps == usual).mean() >= PLACEHOLDER_SHARE)
