"""Effects, shares and interactions: known ones are found, and false ones are rare."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from harness.evidence.ablation.effects import AblationEvaluation, evaluate_ablation
from harness.evidence.ablation.plan import AblationPlan
from harness.record.metrics_file import encode_nonfinite
from tests.evidence.ablation.losses import list_expected_losses, make_ablation_plan, make_runs

NOISE = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "Student t, 2": lambda rng, shape: rng.standard_t(2, shape),
    "two narrow basins": lambda rng, shape: rng.integers(0, 2, shape) - 0.5 + 0.02 * rng.standard_normal(shape),
    "lognormal": lambda rng, shape: rng.lognormal(0, 1, shape) - math.exp(0.5),
}


def evaluate_draw(
    plan: AblationPlan, effects: list[float], noise: str, rng: np.random.Generator, *, together: float = 0.0,
    scale: float = 1.0, shared: float = 0.0, noisy_change: float = 1.0,
) -> AblationEvaluation:  # fmt: skip
    """Evaluate one draw of losses; the first change multiplies the noise by `noisy_change`."""
    draw = NOISE[noise]
    seeds = math.sqrt(shared) * draw(rng, len(plan.seeds))
    losses = {}
    for name, mean in list_expected_losses(plan, effects, together).items():
        factor = scale * (noisy_change if plan.configs[name].values["c0"] else 1.0)
        losses[name] = mean + factor * (seeds + math.sqrt(1 - shared) * draw(rng, len(plan.seeds)))
    return evaluate_ablation(plan, make_runs(plan, losses))


def test_known_effects_and_interaction_are_found() -> None:
    plan, rng = make_ablation_plan(3), np.random.default_rng(1)
    found = evaluate_draw(plan, [-0.3, 0.0, -0.1], "normal", rng, together=-0.2, scale=0.002)
    assert found.is_complete
    assert found.gain is not None
    assert found.gain.verdict.difference == pytest.approx(-0.6, abs=0.01)
    effects = {(effect.change, effect.kind): effect for effect in found.effects}
    expected = {
        ("c0", "forward"): -0.3, ("c0", "backward"): -0.5, ("c1", "forward"): 0.0, ("c1", "backward"): -0.2,
        ("c2", "forward"): -0.1, ("c2", "backward"): -0.1,
    }  # fmt: skip
    for key, difference in expected.items():
        verdict = effects[key].verdict
        assert verdict.difference == pytest.approx(difference, abs=0.01)
        assert verdict.low < difference < verdict.high
        assert verdict.status == ("better" if difference else "not shown")
    interactions = {one.change: one for one in found.interactions}
    assert interactions["c0"].is_shown
    assert interactions["c0"].is_synergy
    assert interactions["c0"].difference == pytest.approx(-0.2, abs=0.01)
    assert not interactions["c2"].is_shown
    assert interactions["all changes"].difference == pytest.approx(-0.2, abs=0.01)
    share = effects["c0", "forward"].share
    assert share is not None
    part, whole = map(float, share.text.split("/"))
    assert share.value == part / whole == pytest.approx(0.5, abs=0.02)


def test_paired_t_intervals_are_those_of_scipy() -> None:
    plan, rng = make_ablation_plan(2), np.random.default_rng(2)
    losses = {name: 3 + rng.standard_normal(5) for name in plan.configs}
    found = evaluate_ablation(plan, make_runs(plan, losses))
    forward = found.effects[0]
    oracle = stats.ttest_rel(losses["baseline with c0"], losses["baseline"])
    interval = oracle.confidence_interval(1 - 0.05 / 4)
    assert (forward.verdict.low, forward.verdict.high) == pytest.approx((interval.low, interval.high))
    assert forward.verdict.p == pytest.approx(min(1, 4 * oracle.pvalue))
    [both] = found.interactions
    sums = losses["winner"] - losses["baseline with c0"] - losses["baseline with c1"] + losses["baseline"]
    oracle = stats.ttest_1samp(sums, 0)
    assert (both.low, both.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert both.p == pytest.approx(oracle.pvalue)


def count_false_results(
    n_changes: int, n_seeds: int, noise: str, n_draws: int, **options: float
) -> tuple[float, float]:
    """Return the shares of ablations of additive changes with a false interaction, and with a missed effect."""
    plan, rng = make_ablation_plan(n_changes, n_seeds), np.random.default_rng([n_changes, n_seeds])
    effects = [-1.0 * index for index in range(n_changes)]
    n_false = n_missed = 0
    for _ in range(n_draws):
        found = evaluate_draw(plan, effects, noise, rng, **options)
        n_false += any(interaction.is_shown for interaction in found.interactions)
        true = dict(zip((change.name for change in plan.changes), effects, strict=True))
        n_missed += any(not one.verdict.low <= true[one.change] <= one.verdict.high for one in found.effects)
    return n_false / n_draws, n_missed / n_draws


def test_few_false_interactions_and_missed_effects() -> None:
    assert max(count_false_results(3, 5, "normal", 250)) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize(("n_changes", "n_seeds"), [(2, 5), (3, 3), (3, 5), (6, 5), (3, 8)])
def test_few_false_interactions_and_missed_effects_with_any_noise(n_changes: int, n_seeds: int, noise: str) -> None:
    """Also where a change makes losses five times as noisy, and where seeds act on all configurations alike."""
    for options in ({}, {"shared": 0.7}, {"noisy_change": 5.0}):
        n_false, n_missed = count_false_results(n_changes, n_seeds, noise, 1000, **options)
        assert n_false <= 0.065  # a standard error is 0.007
        if "noisy_change" not in options or noise in ("normal", "Student t, 2"):
            assert n_missed <= 0.065  # a few seeds do not show the tail or the other basin of the noisier side


def test_no_share_of_a_gain_that_was_not_shown() -> None:
    plan, rng = make_ablation_plan(3), np.random.default_rng(3)
    found = evaluate_draw(plan, [0.0, 0.0, 0.0], "normal", rng)
    assert found.gain is not None
    assert found.gain.verdict.status == "not shown"
    assert all(effect.share is None for effect in found.effects)


def test_maximized_metrics_keep_their_sign() -> None:
    plan, rng = make_ablation_plan(2, direction="maximize"), np.random.default_rng(4)
    found = evaluate_draw(plan, [0.3, -0.1], "normal", rng, together=0.2, scale=0.002)
    assert [effect.verdict.status for effect in found.effects] == ["better", "better", "worse", "better"]
    assert found.effects[0].verdict.low < 0.3 < found.effects[0].verdict.high
    [both] = found.interactions
    assert both.is_synergy
    assert both.low < 0.2 < both.high


def test_a_change_that_diverges_alone_has_no_number_but_a_status() -> None:
    plan, rng = make_ablation_plan(2), np.random.default_rng(5)
    losses = {name: mean + 0.01 * rng.standard_normal(5) for name, mean in
              list_expected_losses(plan, [-0.1, -0.1]).items()}  # fmt: skip
    losses["baseline with c0"] = np.full(5, np.inf)
    found = evaluate_ablation(plan, make_runs(plan, losses))
    assert found.is_complete
    forward = found.effects[0]
    assert forward.verdict.status == "worse"
    assert forward.share is None
    assert found.interactions[0].reason == "5 of 5 runs of baseline with c0 diverged"
    json.dumps(encode_nonfinite([effect.to_json() for effect in found.effects]), allow_nan=False)


def test_a_configuration_that_fails_gets_no_more_seeds() -> None:
    plan = make_ablation_plan(3)
    first = evaluate_ablation(plan, []).next_runs
    assert first == [(name, 2001) for name in plan.configs]
    broken = "baseline with c1"
    runs = make_runs(plan, {name: [None if name == broken else 3.0] for name in plan.configs})
    later = evaluate_ablation(plan, runs).next_runs
    assert len(later) == 4 * 7
    assert broken not in {name for name, _ in later}
    rng = np.random.default_rng(6)
    runs = make_runs(plan, {name: [None] if name == broken else 3 + rng.standard_normal(5) for name in plan.configs})
    found = evaluate_ablation(plan, runs)
    assert not found.next_runs
    assert not found.is_complete
    assert [effect.is_measured for effect in found.effects] == [True, True, False, True, True, True]
    assert found.effects[2].verdict.reason == "baseline with c1: 1 of 1 runs failed: out of memory"


def test_a_failed_baseline_ends_the_ablation() -> None:
    plan = make_ablation_plan(2)
    found = evaluate_ablation(plan, make_runs(plan, {name: [None] for name in plan.configs}))
    assert not found.next_runs
    assert found.failures is not None
    assert found.failures["baseline"].startswith("1 of 1 runs failed")


def test_losses_without_spread_show_nothing() -> None:
    plan = make_ablation_plan(2)
    found = evaluate_ablation(plan, make_runs(plan, {name: [3.0 - len(name)] * 5 for name in plan.configs}))
    assert found.gain is not None
    assert found.gain.verdict.status == "not shown"
    assert "check that the seed changes the run" in found.gain.to_json()["notes"][0]


def test_two_changes_share_configurations() -> None:
    assert list(make_ablation_plan(2).configs) == ["baseline", "winner", "baseline with c0", "baseline with c1"]
    assert len(make_ablation_plan(4).configs) == 10
