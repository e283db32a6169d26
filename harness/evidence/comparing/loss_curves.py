"""The validation losses of runs as curves over one axis."""

from collections.abc import Sequence

import numpy as np

from harness.diagnosis.history import History
from harness.diagnosis.plateau_window import drop_non_finite
from harness.evidence.charts.figure_data import Curves, Line


def make_loss_curves(runs: Sequence[tuple[str, History]]) -> Curves | None:
    """Return the losses of labelled runs by tokens, or by what all logs count: steps, epochs or rows.

    None if they share no axis, or if no run has two evaluations. Whether losses can be compared is not checked.
    """
    drawn = [(label, history, losses) for label, history in runs
             if len(losses := drop_non_finite(history["val/loss"])) > 1]  # fmt: skip
    tokens = [history.tokens_at(losses.steps) for _, history, losses in drawn]
    counted = {history.facts.steps_unit for _, history, _ in drawn}
    has_tokens = all(one is not None for one in tokens)
    if not drawn or (len(counted) > 1 and not has_tokens):
        return None
    units = {history.facts.unit for _, history, _ in drawn}
    [unit] = units if len(units) == 1 else [None]
    lines = []
    for (label, history, losses), known in zip(drawn, tokens, strict=True):
        x = known if has_tokens and known is not None else count_in_log_unit(history, losses.steps)
        lines.append(Line(label, "candidate", tuple(map(float, x)), tuple(losses.values.tolist())))
    return Curves(tuple(lines), "tokens" if has_tokens else counted.pop(),
                  f"validation loss ({unit})" if unit else "validation loss")  # fmt: skip


def count_in_log_unit(history: History, steps: np.ndarray) -> np.ndarray:
    """Return steps in the unit of the log, such as epochs."""
    if history.facts.steps_unit != "epochs":
        return steps
    return steps / (history.facts.steps_per_epoch or 1) - history.facts.epoch_offset
