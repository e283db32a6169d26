"""Learning-rate schedules against expected values and torch."""

import math
import random

import pytest
import torch

from harness.core.state import Progress
from harness.training.schedules import WSD, Constant, Cosine, InverseSqrt, Linear, Plateau, Polynomial, WarmupSchedule


def multipliers(schedule: WarmupSchedule, total_steps: int) -> list[float]:
    return [schedule.lr_multiplier(Progress(step, 0, total_steps)) for step in range(total_steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(), [1, 1, 1, 1]),
        (Constant(warmup_steps=4), [0.25, 0.5, 0.75, 1, 1]),
        (Constant(warmup_ratio=0.4), [0.5, 1, 1, 1, 1]),
        (Linear(), [1, 0.75, 0.5, 0.25]),
        (Linear(final_ratio=0.5), [1, 0.875, 0.75, 0.625]),
        (Linear(warmup_steps=2), [0.5, 1, 1, 0.75, 0.5, 0.25]),
        (Cosine(), [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        (Cosine(final_ratio=0.1, warmup_steps=1), [1, 1, 0.55]),
        (Polynomial(power=2), [1, 0.5625, 0.25, 0.0625]),
        (Polynomial(power=0.5, final_ratio=0.2), [1, 0.2 + 0.8 * math.sqrt(0.5)]),
        (WSD(decay_ratio=0.5), [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        (WSD(decay_ratio=0.5, final_ratio=0.5, warmup_steps=2), [0.5, 1, 1, 1, 1, 0.75]),
        (WSD(decay_ratio=0), [1, 1, 1]),
        (InverseSqrt(warmup_steps=4), [0.25, 0.5, 0.75, 1, *(2 / math.sqrt(n) for n in range(5, 17))]),
        (InverseSqrt(), [1, 1 / math.sqrt(2), 1 / math.sqrt(3), 0.5]),
    ],
)
def test_multipliers_equal_expected_values(schedule, expected) -> None:
    assert multipliers(schedule, len(expected)) == pytest.approx(expected)


TRANSFORMERS = {
    "constant_with_warmup": (Constant, {}, {}),
    "linear": (Linear, {}, {}),
    "cosine": (Cosine, {}, {}),
    "cosine_with_min_lr": (Cosine, {"final_ratio": 0.1}, {"min_lr_rate": 0.1}),
    "polynomial": (Polynomial, {"power": 2.0, "final_ratio": 0.1}, {"power": 2.0, "lr_end": 0.1}),
    "inverse_sqrt": (InverseSqrt, {}, {}),
}


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.07, 0.5])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_convention_of_transformers_equals_its_schedulers(name, ratio) -> None:
    from transformers import get_scheduler

    kind, ours, theirs = TRANSFORMERS[name]
    if name == "inverse_sqrt" and not ratio:
        return  # there transformers decays from update 10,000
    n_steps = 100
    schedule = kind(warmup_ratio=ratio, convention="transformers", **ours)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    n_warmup = math.ceil(n_steps * ratio)  # as TrainingArguments.get_warmup_steps
    scheduler = get_scheduler(name, optimizer, n_warmup, n_steps, theirs)
    expected = []
    for _ in range(n_steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert multipliers(schedule, n_steps) == pytest.approx(expected, abs=1e-12)
    if ratio:
        assert multipliers(kind(warmup_ratio=ratio, **ours), n_steps) != pytest.approx(expected, abs=1e-3)


def test_unknown_convention_is_refused() -> None:
    with pytest.raises(ValueError, match="convention='torch' must be one of harness, transformers"):
        Cosine(convention="torch")


@pytest.mark.parametrize("kind", [Linear, Cosine, Polynomial, WSD])
def test_schedule_ends_at_final_ratio(kind) -> None:
    schedule = kind(final_ratio=0.3, warmup_steps=2)
    assert schedule.lr_multiplier(Progress(10, 0, 10)) == pytest.approx(0.3)


def test_warmup_over_whole_run_ends_at_peak() -> None:
    assert multipliers(Cosine(warmup_ratio=1), 4) == [0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Constant(warmup_ratio=0.1, warmup_steps=5), "leave out one of them"),
        (lambda: Constant(warmup_ratio=1.1), "warmup_ratio=1.1"),
        (lambda: Constant(warmup_ratio=-0.1), "warmup_ratio=-0.1"),
        (lambda: Constant(warmup_ratio=math.nan), "warmup_ratio=nan"),
        (lambda: Constant(warmup_ratio="lots"), "warmup_ratio='lots' must be a number from 0 to 1"),
        (lambda: Constant(warmup_steps=-1), "warmup_steps=-1"),
        (lambda: Constant(warmup_steps=2.5), "warmup_steps=2.5 must be a whole number"),
        (
            lambda: Constant(warmup_steps=11).count_warmup_steps(10),
            "warmup_steps=11 is longer than the run of 10 steps",
        ),
        (lambda: Cosine(final_ratio=2), "final_ratio=2"),
        (lambda: Polynomial(power=-1), "power=-1"),
        (lambda: WSD(decay_ratio=1.5), "decay_ratio=1.5"),
        (lambda: Plateau(factor=1), "factor=1"),
        (lambda: Plateau(patience=-1), "patience=-1"),
        (lambda: Plateau(min_ratio=2), "min_ratio=2"),
    ],
)
def test_invalid_value_is_refused_by_name(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


def test_warmup_notice_if_warmup_rounds_to_zero() -> None:
    assert "warmup_ratio=0.01 of 40 steps rounds to 0" in Constant(warmup_ratio=0.01).warmup_notice(40)
    assert Constant(warmup_ratio=0.05).warmup_notice(40) is None
    assert Constant(warmup_ratio=0.0).warmup_notice(40) is None
    assert Constant(warmup_steps=0).warmup_notice(40) is None


@pytest.mark.parametrize("seed", range(20))
def test_plateau_equals_torch(seed) -> None:
    draw = random.Random(seed)
    settings = {
        "factor": draw.choice([0.1, 0.5, 0.9]),
        "patience": draw.randrange(4),
        "threshold": draw.choice([0.0, 1e-4, 0.1]),
        "cooldown": draw.randrange(4),
    }
    min_ratio = draw.choice([0.0, 0.2])
    ours = Plateau(**settings, min_ratio=min_ratio)
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        sgd, mode="min", threshold_mode="rel", min_lr=min_ratio, eps=0, **settings
    )
    for step in range(60):
        loss = draw.choice([draw.random(), 1.0, math.nan])
        ours.observe(loss)
        theirs.step(loss)
        assert ours.lr_multiplier(Progress(step, 0, 60)) == pytest.approx(sgd.param_groups[0]["lr"])
    assert ours.plateau_state.ratio < 1


def test_plateau_applies_during_warmup() -> None:
    schedule = Plateau(warmup_steps=4, factor=0.5, patience=0)
    schedule.observe(1.0)
    schedule.observe(1.0)
    assert multipliers(schedule, 6) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


def test_plateau_resumes_from_its_state() -> None:
    losses = [3.0, 2.0, 2.0, 2.0, 2.5, 2.0, 1.0, 1.0, 1.0, 1.0]
    whole = Plateau(patience=1, cooldown=1)
    first, second = Plateau(patience=1, cooldown=1), Plateau(patience=1, cooldown=1)
    for loss in losses:
        whole.observe(loss)
    for loss in losses[:4]:
        first.observe(loss)
    second.load_state_dict(first.state_dict())
    for loss in losses[4:]:
        second.observe(loss)
    assert second.state_dict() == whole.state_dict()
    assert whole.plateau_state.ratio == 0.25


def test_plateau_notice_if_run_is_too_short() -> None:
    schedule = Plateau(factor=0.5, patience=2)
    assert schedule.idle_notice(3) == "patience=2 allows a first cut after 4 evaluations, and the run has 3"
    assert schedule.idle_notice(4) is None
    for _ in range(4):
        schedule.observe(1.0)
    assert schedule.decay_multiplier(0.5) == 0.5
