"""LR schedules of other programs, from their parameters, their saved state or the LR curve."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from harness.diagnosis.history import Series

SCHEDULE_PATTERNS = {
    "plateau": "Plateau", "cosine|onecycle": "Cosine", "inverse.?sqrt": "InverseSqrt", "stable.?decay|wsd": "WSD",
    "polynomial": "Polynomial", "linear": "Linear", "constant": "Constant",
}  # fmt: skip
"""Classes of harness.training.schedules by a pattern in the names that transformers and torch use."""
SCHEDULE_PARAMS = (
    "lr_scheduler_type",
    "lr_scheduler",
    "scheduler",
    "scheduler_type",
    "scheduler_name",
    "lr_schedule",
    "schedule",
)
WATCHED_METRIC_PARAM = "metric_for_best_model"
"""The plateau schedule of the transformers Trainer monitors this metric too; it is always one of evaluation."""

MAX_STATE_BYTES = 50_000_000
"""The saved state of a schedule has some KB; a larger file is something else."""
FACTOR_TOLERANCE = 0.01
"""Two factors that differ by less count as equal."""
LARGEST_CUT = 0.95
"""A larger factor is a decay, not a cut."""
MAX_PLANNED_MULTIPLE = 12
"""Cuts at multiples of one number of steps, up to this one, may follow a plan (StepLR, MultiStepLR)."""


def schedule_from_params(params: Mapping[str, str], total_steps: int | None) -> dict[str, Any]:
    """Return the fields of `RunFacts` about schedule and warm-up that the parameters of another program reveal."""
    names = (parse_schedule_name(params.get(param, "")) for param in SCHEDULE_PARAMS)
    facts: dict[str, Any] = {"schedule": next(filter(None, names), None)}
    if facts["schedule"] == "Plateau" and WATCHED_METRIC_PARAM in params:
        facts["monitor"] = "val/loss" if params[WATCHED_METRIC_PARAM] in ("loss", "eval_loss") else None
    steps, ratio = (_parse_number(params.get(name, "")) for name in ("warmup_steps", "warmup_ratio"))
    if 0 < steps < 1:  # transformers 5 has only warmup_steps, which may be a ratio
        steps, ratio = 0.0, steps
    return facts | {"requested_warmup": steps or ratio * (total_steps or 0) or None}


def parse_schedule_name(name: str) -> str | None:
    """Return our name of a schedule, None if it is unknown."""
    return next((kind for pattern, kind in SCHEDULE_PATTERNS.items() if re.search(pattern, name, re.IGNORECASE)), None)


def schedule_from_state(folder: Path, losses: Sequence[float]) -> dict[str, Any]:
    """Return the fields of `RunFacts` about a plateau schedule whose state transformers saved in `folder`.

    It monitors the validation loss if its best value is one of `losses`. The state of other schedules reveals nothing,
    and without torch no state can be read.
    """
    path = folder / "scheduler.pt"
    if not path.is_file() or path.stat().st_size > MAX_STATE_BYTES:
        return {}
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    try:
        state = torch.load(path, weights_only=True)
    except (UnpicklingError, OSError, RuntimeError, EOFError):  # truncated, or more than plain values
        return {}
    if not {"num_bad_epochs", "patience", "best"} <= state.keys():
        return {}
    monitor = "val/loss" if any(math.isclose(loss, state["best"]) for loss in losses) else None
    return {"schedule": "Plateau", "monitor": monitor, "patience": state["patience"]}


def schedule_from_curve(lr: Series) -> str | None:
    """Return "Plateau" if the LR is constant but for cuts by one factor at irregular steps, else None."""
    if not len(lr) or not np.all(np.isfinite(lr.values)) or not lr.values.max() > 0:
        return None
    steps, values = (part[int(np.argmax(lr.values)) :] for part in lr)  # after the warm-up
    factors = values[1:] / np.maximum(values[:-1], np.finfo(float).tiny)
    cuts = np.flatnonzero(np.abs(factors - 1) > FACTOR_TOLERANCE / 10)
    if len(cuts) < 2 or len(values) < 3 * (len(cuts) + 1):
        return None
    factor = float(np.median(factors[cuts]))
    is_one_factor = 0 < factor < LARGEST_CUT and np.all(np.abs(factors[cuts] - factor) < FACTOR_TOLERANCE)
    # a cut lies somewhere between two recorded steps
    may_be_planned = any(_may_be_planned(steps[0], marks) for marks in (steps[cuts], steps[cuts + 1]))
    return "Plateau" if is_one_factor and not may_be_planned else None


def _may_be_planned(start: int, marks: np.ndarray) -> bool:
    gaps = np.diff([start, *marks])
    return bool(marks[-1] <= MAX_PLANNED_MULTIPLE * math.gcd(*marks.tolist()) or np.ptp(gaps) <= 0.1 * gaps.mean())


def _parse_number(text: str) -> float:
    """Return 0 for what is not set: transformers writes 0, -1 or None."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
