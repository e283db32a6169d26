"""What parameters and curves of others tell of the schedule; what they do not tell stays unknown."""

import numpy as np
import pytest

from harness.diagnosis.history import Series
from harness.importers.lr_schedules import schedule_from_curve, schedule_from_params


@pytest.mark.parametrize(
    ("params", "facts"),
    [
        (
            {"lr_scheduler_type": "SchedulerType.COSINE", "warmup_ratio": "0.1"},
            {"schedule": "Cosine", "warmup_asked": 20},
        ),
        ({"lr_scheduler_type": "linear", "warmup_steps": "30", "warmup_ratio": "0.5"}, {"warmup_asked": 30}),
        ({"lr_scheduler_type": "linear", "warmup_steps": "0.1"}, {"schedule": "Linear", "warmup_asked": 20}),
        ({"scheduler": "ReduceLROnPlateau"}, {"schedule": "Plateau", "watches": None, "warmup_asked": None}),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss"},
            {"schedule": "Plateau", "watches": "val/loss"},
        ),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "accuracy"},
            {"schedule": "Plateau", "watches": None},
        ),
        ({"scheduler": "StepLR", "warmup_steps": "0"}, {"schedule": None, "warmup_asked": None}),
    ],
)
def test_parameters_tell_schedule_what_it_watches_and_the_warm_up_that_was_asked_for(params, facts) -> None:
    found = schedule_from_params(params, total_steps=200)
    assert {name: found.get(name) for name in facts} == facts


def test_a_share_of_a_length_that_is_not_known_is_none() -> None:
    assert schedule_from_params({"warmup_ratio": "0.1"}, total_steps=None)["warmup_asked"] is None


def cut(*at: int, by: float = 0.5, every: int = 1, last: int = 300) -> Series:
    """An LR that is cut behind each of these steps, after a warm-up of 5."""
    steps = np.arange(every, last + 1, every)
    return Series(steps, 1e-3 * np.minimum(1, steps / 5) * by ** sum((steps > one).astype(float) for one in at))


@pytest.mark.parametrize("lr", [cut(57, 103, 211), cut(571, 1034, every=10, last=3000), cut(57, 103, by=0.1)])
def test_an_lr_that_is_cut_by_one_factor_at_odd_steps_is_of_a_plateau_schedule(lr) -> None:
    assert schedule_from_curve(lr) == "Plateau"


NO_PLATEAU = {
    "constant": cut(),
    "one cut": cut(57),
    "steps": cut(50, 100, 150, 200, 250),
    "steps seen late": cut(*range(25, 300, 25), every=10),
    "milestones": cut(150, 225),
    "several factors": Series(np.arange(100), np.r_[np.ones(23), np.full(30, 0.5), np.full(47, 0.1)]),
    "cosine": Series(np.arange(100), 0.5 + 0.5 * np.cos(np.arange(100) * np.pi / 100)),
    "exponential": Series(np.arange(100), 0.9 ** np.arange(100)),
    "nothing": Series(np.array([], int), np.array([])),
}


@pytest.mark.parametrize("name", NO_PLATEAU)
def test_what_a_plan_may_have_drawn_is_not_taken_for_a_plateau_schedule(name) -> None:
    assert schedule_from_curve(NO_PLATEAU[name]) is None
