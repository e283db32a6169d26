"""Diagnoses of curves as strangers log them: false alarms, recall, and what is suggested."""

import random

import pytest

from harness.diagnosis import diagnose
from harness.diagnosis.history import RunFacts
from harness.importers.metric_aliases import build_history
from tests.diagnosis.foreign_curves import FAULTY, HEALTHY, make_foreign_log

SEEDS = range(12)
RARE = {"underfitting": 2}  # of the seeds of a healthy family; nothing else may be found in more than one


@pytest.mark.parametrize("family", HEALTHY)
def test_healthy_logs_of_strangers_have_no_diagnosis(family: str) -> None:
    found = [{one.kind for one in diagnose(make_foreign_log(family, seed))} for seed in SEEDS]
    wrong = [kinds - HEALTHY[family].allowed for kinds in found]
    assert sum(bool(kinds - RARE.keys()) for kinds in wrong) <= 1
    assert all(sum(kind in kinds for kinds in wrong) <= most for kind, most in RARE.items())


@pytest.mark.parametrize("family", FAULTY)
def test_faults_in_logs_of_strangers_are_named(family: str) -> None:
    labels, allowed = FAULTY[family].labels, FAULTY[family].allowed
    found = [{one.kind for one in diagnose(make_foreign_log(family, seed))} for seed in SEEDS]
    assert sum(bool(kinds & labels) for kinds in found) >= 0.75 * len(SEEDS)
    assert sum(bool(kinds - labels - allowed) for kinds in found) <= 1


@pytest.mark.parametrize("family", [name for name in FAULTY if FAULTY[name].labels & {"divergence", "rising loss"}])
def test_no_higher_lr_is_suggested_for_a_loss_that_rises_or_is_not_finite(family: str) -> None:
    for seed in SEEDS:
        for diagnosis in diagnose(make_foreign_log(family, seed)):
            factors = [one.factor for one in diagnosis.suggestions if one.key == "optimizer.lr"]
            assert all(factor is not None and factor < 1 for factor in factors)


def test_a_divergence_explains_its_rise_and_its_clipped_steps() -> None:
    """The norms of a diverged run would suggest a clip that lets everything through."""
    losses = [4 - 0.05 * step for step in range(40)] + [2.0 * 1.5**step for step in range(30)]
    rows = {step: {"loss": loss, "grad_norm": 9 * loss} for step, loss in enumerate(losses, 1)}
    points = {name: [(step, row[name]) for step, row in rows.items()] for name in ("loss", "grad_norm")}
    facts = RunFacts(total_steps=70, batch_size=16, grad_clip=1.0)
    assert [one.kind for one in diagnose(build_history(points, facts))] == ["divergence"]


def test_a_loss_that_never_moved_is_no_plateau_before_halfway() -> None:
    """The LR of a run that never learnt may be too high, which a plateau would raise further."""
    generator = random.Random(0)
    points = {"loss": [(step, 6.9 + generator.gauss(0, 0.02)) for step in range(500)]}
    for until in (150, 200, 245):
        rows = {"loss": points["loss"][:until]}
        assert not diagnose(build_history(rows, RunFacts(total_steps=500, peak_lr=1e-5)))
    assert [one.kind for one in diagnose(build_history(points, RunFacts(total_steps=500)))] == ["never learnt"]
