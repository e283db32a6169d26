"""Several candidates against one baseline."""

import numpy as np
import pytest

from harness.evidence import compare_candidates, compare_losses

BASELINE = [3.0, 3.1, 2.9, 3.05, 2.95]
CANDIDATES = {
    "far better": [2.0, 2.1, 1.9, 2.05, 1.95],
    "the same": [3.01, 3.11, 2.88, 3.04, 2.97],
    "better": [2.85, 2.8, 2.9, 2.83, 2.82],
    "diverged": [2.0, 2.1, float("nan"), 2.05, 1.95],
}


def test_one_candidate_needs_no_correction() -> None:
    for losses in CANDIDATES.values():
        assert compare_candidates(BASELINE, {"a": losses})["a"] == compare_losses(BASELINE, losses)


def test_levels_and_p_values_follow_holm() -> None:
    found = compare_candidates(BASELINE, CANDIDATES, n_trials=40)
    assert list(found) == list(CANDIDATES)
    assert {name: one.status for name, one in found.items()} == {
        "far better": "better", "the same": "not shown", "better": "better", "diverged": "not shown",
    }  # fmt: skip
    assert [found[name].confidence for name in ("far better", "better", "the same")] == pytest.approx(
        [1 - 0.05 / 4, 1 - 0.05 / 3, 1 - 0.05 / 2]
    )
    assert "corrected for 4 candidates by Holm's method" in found["better"].notes
    assert "chosen from 40 trials" in found["better"].notes


def test_adjusted_p_values_and_statuses_are_those_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for _ in range(50):
        losses = rng.normal(size=(4, 8)) - np.array([[0], [0], [1], [2]])
        candidates = dict(zip("abc", losses[1:], strict=True))
        found = compare_candidates(losses[0], candidates)
        raw = [compare_losses(losses[0], one).p for one in candidates.values()]
        rejected, adjusted, *_ = multitest.multipletests(raw, 0.05, method="holm")
        assert [one.p for one in found.values()] == pytest.approx(list(adjusted))
        assert [one.status != "not shown" for one in found.values()] == list(rejected)


def test_statuses_and_intervals_agree() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        losses = rng.normal(size=(4, 6)) - np.array([[0], [1], [2], [3]])
        for one in compare_candidates(losses[0], dict(zip("abc", losses[1:], strict=True))).values():
            assert (one.status == "better") == (one.high < 0) == (one.p <= 0.05 and one.difference < 0)


def test_any_false_claim_is_as_rare_as_with_one_candidate() -> None:
    rng = np.random.default_rng(2)
    wrong = 0
    for losses in rng.normal(size=(400, 4, 5)):
        found = compare_candidates(losses[0], dict(zip("abc", losses[1:], strict=True)), paired=False)
        wrong += any(one.status == "better" for one in found.values())
    assert wrong / 400 <= 0.05


def test_candidates_with_too_few_seeds_come_last_and_change_nothing() -> None:
    found = compare_candidates(BASELINE, {"none": [], "far better": CANDIDATES["far better"]})
    assert found["none"].status == "not shown"
    assert np.isnan(found["none"].p)
    assert found["far better"].status == "better"
    assert compare_candidates(BASELINE, {}) == {}


def test_equivalence_is_corrected_too() -> None:
    assert compare_losses(BASELINE, CANDIDATES["the same"], margin=0.12).status == "equivalent"
    many = {str(number): CANDIDATES["the same"] for number in range(4)}
    assert {one.status for one in compare_candidates(BASELINE, many, margin=0.12).values()} == {"not shown"}


def test_bad_input_names_the_candidate() -> None:
    with pytest.raises(ValueError, match="wide: 'x': not a number"):
        compare_candidates(BASELINE, {"wide": ["x"]})
    with pytest.raises(ValueError, match="n_trials: 1: fewer than the 4 candidates"):
        compare_candidates(BASELINE, CANDIDATES, n_trials=1)


def test_candidates_without_result_count_but_hand_on_no_level() -> None:
    alone = {name: CANDIDATES[name] for name in ("far better", "better")}
    found = compare_candidates(BASELINE, alone, n_without_result=2)
    assert list(found) == list(alone)
    assert [one.confidence for one in found.values()] == pytest.approx([1 - 0.05 / 4, 1 - 0.05 / 3])
    assert found == {name: one for name, one in compare_candidates(BASELINE, CANDIDATES).items() if name in alone}
    assert "corrected for 4 candidates by Holm's method" in found["better"].notes
