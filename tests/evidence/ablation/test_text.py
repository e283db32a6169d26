"""Ablations in words: shares with their formula, interactions, divergence and failures."""

import re

import numpy as np

from harness.evidence.ablation.effects import evaluate_ablation
from harness.evidence.ablation.result import AblationResult
from harness.evidence.ablation.text import list_ablation_sections
from harness.evidence.comparing.compare_text import format_as_text
from tests.evidence.ablation.losses import list_expected_losses, make_ablation_plan, make_runs


def format_losses(effects: list[float], together: float = 0.0, **replaced: list[float | None]) -> str:
    """Return the text of an ablation with little noise; `replaced` are losses by name, with _ for spaces."""
    plan, rng = make_ablation_plan(len(effects)), np.random.default_rng(1)
    means = list_expected_losses(plan, effects, together)
    losses = {name: list(mean + 0.002 * rng.standard_normal(5)) for name, mean in means.items()}
    losses |= {name.replace("_", " "): values for name, values in replaced.items()}
    runs = make_runs(plan, losses)
    result = AblationResult("s", plan, runs, evaluate_ablation(plan, runs), "complete", "", {})
    return "\n".join(format_as_text(list_ablation_sections(result), None))


def test_shares_follow_from_their_formula() -> None:
    text = format_losses([-0.3, 0.0, -0.1], together=-0.2)
    shares = re.findall(r"(\d+)% = ([\d.]+)/([\d.]+)\)", text)
    assert len(shares) == 5
    assert all(int(share) == round(100 * float(part) / float(whole)) for share, part, whole in shares)
    assert "c1: alone no effect was shown" in text
    assert re.search(r"interaction: c1 brings more with the others than alone, by -0\.2\d+ \[-0.*, -0.*\], p", text)
    assert "interaction of c2: none was shown" in text
    assert "the effects alone sum to -0.4" in text
    assert not re.search(r"\b(significant|stable|faster|clearly)\b", text)


def test_changes_that_overlap() -> None:
    text = format_losses([-0.3, -0.1], together=0.15)
    assert "interaction: c0 and c1 bring less together than alone" in text
    assert "on top of the others it is worse, by 0.05" in text


def test_divergence_is_said() -> None:
    nan = float("inf")
    text = format_losses([-0.3, 0.1, -0.1], baseline_with_c0=[nan] * 5, winner_without_c1=[nan, nan, 3, 3, 3])
    assert "c0: alone it is worse: 5 of 5 runs of baseline with c0 diverged" in text
    assert "2 of 5 runs of winner without c1 diverged" in text
    assert "interaction of c0: no number (5 of 5 runs of baseline with c0 diverged)" in text
    assert "inf" not in text.replace("interaction", "")


def test_failures_and_unshown_gains_are_said() -> None:
    text = format_losses([-0.3, 0.1, -0.1], baseline_with_c0=[None])
    assert "c0: alone it has no result (baseline with c0: 1 of 1 runs failed: out of memory)" in text
    text = format_losses([0.0, 0.0, 0.0])
    assert "no difference between the winner (trial 7) and the baseline was shown" in text
    assert "%" not in text.replace("95%", "")
