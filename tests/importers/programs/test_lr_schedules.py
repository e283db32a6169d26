"""Detection of LR schedules from parameters and curves; what they do not reveal stays unknown."""

from typing import Any

import numpy as np
import pytest

from harness.diagnosis.history import Series
from harness.importers.programs.lr_schedules import schedule_from_curve, schedule_from_params


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (
            {"lr_scheduler_type": "SchedulerType.COSINE", "warmup_ratio": "0.1"},
            {"schedule": "Cosine", "requested_warmup": 20},
        ),
        ({"lr_scheduler_type": "linear", "warmup_steps": "30", "warmup_ratio": "0.5"}, {"requested_warmup": 30}),
        ({"lr_scheduler_type": "linear", "warmup_steps": "0.1"}, {"schedule": "Linear", "requested_warmup": 20}),
        ({"scheduler": "ReduceLROnPlateau"}, {"schedule": "Plateau", "monitor": None, "requested_warmup": None}),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss"},
            {"schedule": "Plateau", "monitor": "val/loss"},
        ),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "accuracy"},
            {"schedule": "Plateau", "monitor": None},
        ),
        ({"scheduler": "StepLR", "warmup_steps": "0"}, {"schedule": None, "requested_warmup": None}),
    ],
)
def test_schedule_from_params(params: dict[str, str], expected: dict[str, Any]) -> None:
    facts = schedule_from_params(params, total_steps=200)
    assert {name: facts.get(name) for name in expected} == expected


def test_warmup_ratio_of_a_run_of_unknown_length() -> None:
    assert schedule_from_params({"warmup_ratio": "0.1"}, total_steps=None)["requested_warmup"] is None


def cut_lr(*cuts: int, factor: float = 0.5, every: int = 1, last: int = 300) -> Series:
    """Return an LR, recorded every `every` steps, that is cut after each of these steps; the warm-up has 5 steps."""
    steps = np.arange(every, last + 1, every)
    n_cuts = sum((steps > cut).astype(float) for cut in cuts)
    return Series(steps, 1e-3 * np.minimum(1, steps / 5) * factor**n_cuts)


@pytest.mark.parametrize(
    "lr", [cut_lr(57, 103, 211), cut_lr(571, 1034, every=10, last=3000), cut_lr(57, 103, factor=0.1)]
)
def test_cuts_by_one_factor_at_irregular_steps_are_a_plateau_schedule(lr: Series) -> None:
    assert schedule_from_curve(lr) == "Plateau"


OTHER_CURVES = {
    "constant": cut_lr(),
    "one cut": cut_lr(57),
    "steps": cut_lr(50, 100, 150, 200, 250),
    "steps, rarely recorded": cut_lr(*range(25, 300, 25), every=10),
    "milestones": cut_lr(150, 225),
    "several factors": Series(np.arange(100), np.r_[np.ones(23), np.full(30, 0.5), np.full(47, 0.1)]),
    "cosine": Series(np.arange(100), 0.5 + 0.5 * np.cos(np.arange(100) * np.pi / 100)),
    "exponential": Series(np.arange(100), 0.9 ** np.arange(100)),
    "empty": Series(np.array([], int), np.array([])),
}


@pytest.mark.parametrize("name", OTHER_CURVES)
def test_curves_of_planned_schedules_are_not_a_plateau_schedule(name: str) -> None:
    assert schedule_from_curve(OTHER_CURVES[name]) is None
