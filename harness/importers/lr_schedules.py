"""How the LR of others was scheduled: by what they call it, or by a curve that only one kind draws."""

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
"""Of harness.training.schedules, by what is in the names of transformers and torch."""
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
"""Of the Trainer of transformers, whose plateau schedule watches it too; evaluations alone."""

FACTOR_TOLERANCE, LARGEST_CUT = 0.01, 0.95
"""Factors so near to each other are one; a fall to more than that is no cut."""
MAX_PLANNED_MULTIPLE = 12
"""Cuts at so small multiples of one number of steps may have been planned."""


def schedule_from_params(params: Mapping[str, str], total_steps: int | None) -> dict[str, Any]:
    """The facts of a schedule and its warm-up that these parameters of others tell."""
    found = {
        "schedule": next(
            (kind for name in SCHEDULE_PARAMS if (kind := parse_schedule_name(params.get(name, "")))), None
        )
    }
    if found["schedule"] == "Plateau" and WATCHED_METRIC_PARAM in params:
        found["watches"] = "val/loss" if params[WATCHED_METRIC_PARAM] in ("loss", "eval_loss") else None
    steps, share = (_parse_number(params.get(name)) for name in ("warmup_steps", "warmup_ratio"))
    steps, share = (0.0, steps) if 0 < steps < 1 else (steps, share)  # transformers 5 knows but one of them
    asked = steps or (share * total_steps if total_steps else 0.0)
    return found | {"warmup_asked": asked or None}


def parse_schedule_name(name: str) -> str | None:
    """By our names; None for what is none of ours."""
    return next((kind for pattern, kind in SCHEDULE_PATTERNS.items() if re.search(pattern, name, re.IGNORECASE)), None)


def schedule_from_state(folder: Path, losses: Sequence[float]) -> dict[str, Any]:
    """The facts of a plateau schedule whose state transformers saved in `folder`, and whether its best is one of these
    validation losses; of other schedules the state tells nothing."""
    path = folder / "scheduler.pt"
    if not path.is_file():
        return {}
    import torch

    try:
        state = torch.load(path, weights_only=True)
    except (UnpicklingError, OSError, RuntimeError, EOFError):  # cut off, or of more than plain values
        return {}
    if not {"num_bad_epochs", "patience", "best"} <= state.keys():
        return {}
    watches = "val/loss" if any(math.isclose(loss, state["best"]) for loss in losses) else None
    return {"schedule": "Plateau", "watches": watches, "patience": state["patience"]}


def schedule_from_curve(lr: Series) -> str | None:
    """Plateau for an LR that only stands and is cut by one factor, at steps that no plan explains; else None."""
    if not len(lr) or not np.all(np.isfinite(lr.values)) or not lr.values.max() > 0:
        return None
    steps, values = (part[int(np.argmax(lr.values)) :] for part in lr)
    factors = values[1:] / np.maximum(values[:-1], np.finfo(float).tiny)
    at = np.flatnonzero(np.abs(factors - 1) > FACTOR_TOLERANCE / 10)
    if len(at) < 2 or len(values) < 3 * (len(at) + 1):
        return None
    usual = float(np.median(factors[at]))
    is_one_factor = 0 < usual < LARGEST_CUT and np.all(np.abs(factors[at] - usual) < FACTOR_TOLERANCE)
    may_be_planned = any(_may_be_planned(steps[0], marks) for marks in (steps[at], steps[at + 1]))
    return "Plateau" if is_one_factor and not may_be_planned else None


def _may_be_planned(start: int, marks: np.ndarray) -> bool:
    gaps = np.diff([start, *marks])
    return bool(marks[-1] <= MAX_PLANNED_MULTIPLE * math.gcd(*marks.tolist()) or np.ptp(gaps) <= 0.1 * gaps.mean())


def _parse_number(text: str | None) -> float:
    """0 where there is none: transformers writes 0 and -1 for what was not asked for."""
    try:
        return max(0.0, float(text))
    except (TypeError, ValueError):
        return 0.0
