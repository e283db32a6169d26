"""The effects of the changes between a baseline and a winner, their shares of the whole gain, and interactions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from harness.core.formatting import format_number
from harness.evidence.ablation.changes import Change
from harness.evidence.ablation.plan import BASELINE, WINNER, AblationPlan, list_failures, list_next_runs
from harness.evidence.confirm.plan import Verdict, make_unknown_verdict, make_verdict
from harness.evidence.seed_runs import list_costs
from harness.evidence.statistics.contrasts import Contrast, measure_contrast
from harness.evidence.statistics.seed_comparison import SeedComparison, Status, compare_loss_arrays, read_losses
from harness.sweep.seed_study import SeedRun

Kind = Literal["gain", "forward", "backward"]
ALL_TOGETHER = "all changes"


@dataclass(frozen=True)
class Share:
    """A part of the whole gain: `text` is the formula, of rounded numbers, that `value` follows from."""

    value: float
    text: str


@dataclass(frozen=True)
class Effect:
    """The difference that a change makes, `second` minus `first`, which are names of configurations.

    "forward": to the baseline alone. "backward": to the winner, where all other changes are made. "gain": that of all
    changes. `share` is its part of the whole gain, None unless the winner is shown to be better and no run diverged.
    """

    kind: Kind
    change: str
    first: str
    second: str
    verdict: Verdict
    share: Share | None = None

    @property
    def is_measured(self) -> bool:
        return self.verdict.comparison is not None

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        verdict = {key: value for key, value in self.verdict.to_json().items() if key not in ("candidate", "margin")}
        return {
            "kind": self.kind,
            "change": self.change,
            "first": self.first,
            "second": self.second,
            "share": self.share.value if self.share else None,
            "share_formula": self.share.text if self.share else None,
            **verdict,
        }


@dataclass(frozen=True)
class Interaction:
    """By how much the effect of a change differs with the other changes made, in the unit of the metric.

    It is the backward minus the forward effect; for all changes together, the whole gain minus the sum of the forward
    effects. `is_synergy` says that the change helps more, or harms less, with the others. Without numbers there is a
    `reason`.
    """

    change: str
    difference: float
    low: float
    high: float
    p: float
    confidence: float
    is_shown: bool
    is_synergy: bool
    reason: str = ""


@dataclass(frozen=True)
class AblationEvaluation:
    """Conclusions from the runs so far: nothing before all are over.

    `failures` are the configurations without a result and why, and `next_runs` those to make.
    """

    next_runs: Sequence[tuple[str, int]] = ()
    failures: Mapping[str, str] | None = None
    gain: Effect | None = None
    effects: tuple[Effect, ...] = ()
    interactions: tuple[Interaction, ...] = ()

    @property
    def is_complete(self) -> bool:
        """True if every effect was measured."""
        return bool(self.effects) and all(effect.is_measured for effect in self.effects)


def evaluate_ablation(plan: AblationPlan, runs: Sequence[SeedRun]) -> AblationEvaluation:
    """Return the runs to make next or, once all are over, the effects.

    Intervals of the effects of single changes hold together at the confidence of the plan (Bonferroni), and so do those
    of the interactions. The whole gain is one comparison.
    """
    failures = list_failures(plan, runs)
    if next_runs := list_next_runs(plan, runs):
        return AblationEvaluation(next_runs, failures)
    if BASELINE in failures or WINNER in failures:
        return AblationEvaluation((), failures)
    samples = _Samples(plan, runs, failures)
    gain = samples.compare("gain", "", BASELINE, WINNER, 1)
    effects = [
        effect
        for change in plan.changes
        for effect in (
            samples.compare("forward", change.name, BASELINE, plan.forward_name(change), plan.n_effects),
            samples.compare("backward", change.name, plan.backward_name(change), WINNER, plan.n_effects),
        )
    ]
    return AblationEvaluation(
        failures=failures,
        gain=gain,
        effects=tuple(replace(effect, share=_find_share(effect, gain)) for effect in effects),
        interactions=tuple(
            _measure_interaction(plan, samples, name, weights) for name, weights in weigh_interactions(plan).items()
        ),
    )


class _Samples:
    """The costs of all configurations, by name; lower is better, and infinity is a diverged run."""

    def __init__(self, plan: AblationPlan, runs: Sequence[SeedRun], failures: Mapping[str, str]) -> None:
        self._plan, self.failures = plan, failures
        by_run = {(run.config, run.seed): run for run in runs}
        self.costs = {
            name: read_losses(
                name, list_costs([by_run[name, seed] for seed in plan.seeds], plan.metric, plan.direction)
            )
            for name in plan.configs
            if name not in failures
        }

    def compare(self, kind: Kind, change: str, first: str, second: str, n_comparisons: int) -> Effect:
        """Return an effect, corrected for the number of comparisons."""
        plan, n_seeds = self._plan, len(self._plan.seeds)
        for name in (first, second):
            if name in self.failures:
                reason = f"{name}: {self.failures[name]}"
                return Effect(kind, change, first, second, make_unknown_verdict(second, n_seeds, reason))
        alpha, sides = (1 - plan.confidence) / n_comparisons, (self.costs[first], self.costs[second])
        found = compare_loss_arrays(*sides, True, None, alpha, alpha)
        if np.isfinite(sides).all():
            found = _replace_interval(found, measure_contrast(sides, (-1.0, 1.0), alpha=alpha))
        found = replace(found, p=min(1.0, found.p * n_comparisons))
        return Effect(kind, change, first, second, make_verdict(second, found, plan.direction))

    def find_obstacle(self, names: Sequence[str]) -> str:
        """Return why the losses of some configurations have no weighted sum, or an empty string."""
        for name in names:
            if name in self.failures:
                return f"{name}: {self.failures[name]}"
            if n_diverged := int(np.isinf(self.costs[name]).sum()):
                return f"{n_diverged} of {len(self.costs[name])} runs of {name} diverged"
        return ""


def _replace_interval(comparison: SeedComparison, contrast: Contrast) -> SeedComparison:
    """Return a comparison with the paired t interval alone, which is not kept between rank intervals."""
    status: Status = "not shown"
    if contrast.is_shown:
        status = "better" if contrast.value < 0 else "worse"
    return replace(
        comparison,
        status=status, low=contrast.low, high=contrast.high, p=contrast.p,
        method="paired t interval", notes=(contrast.note,) if contrast.note else (),
    )  # fmt: skip


def _find_share(effect: Effect, gain: Effect) -> Share | None:
    """Return the part of the whole gain that an effect is; the numbers are those that are printed."""
    part, whole = effect.verdict, gain.verdict
    compared = [one.comparison for one in (part, whole)]
    if whole.status != "better" or any(
        one is None or one.diverged_baseline or one.diverged_candidate for one in compared
    ):
        return None
    sign = 1 if whole.difference > 0 else -1
    texts = [format_number(sign * value) for value in (part.difference, whole.difference)]
    return Share(float(texts[0]) / float(texts[1]), f"{texts[0]}/{texts[1]}")


def weigh_interactions(plan: AblationPlan) -> dict[str, dict[str, float]]:
    """Return the weights of the configurations in each interaction, by the name of what interacts.

    That of each change with the others, and of all together; of two changes they are the same.
    """

    def weigh(change: Change) -> dict[str, float]:
        return {WINNER: 1.0, plan.backward_name(change): -1.0, plan.forward_name(change): -1.0, BASELINE: 1.0}

    if len(plan.changes) == 2:
        return {" and ".join(change.name for change in plan.changes): weigh(plan.changes[0])}
    total = {WINNER: 1.0, BASELINE: len(plan.changes) - 1.0, **{plan.forward_name(c): -1.0 for c in plan.changes}}
    return {**{change.name: weigh(change) for change in plan.changes}, ALL_TOGETHER: total}


def _measure_interaction(plan: AblationPlan, samples: _Samples, name: str, weights: Mapping[str, float]) -> Interaction:
    alpha, nan = (1 - plan.confidence) / plan.n_interactions, math.nan
    if reason := samples.find_obstacle(list(weights)):
        return Interaction(name, nan, nan, nan, nan, 1 - alpha, False, False, reason)
    costs = [samples.costs[config] for config in weights]
    found = measure_contrast(costs, list(weights.values()), alpha=alpha)
    value, low, high = found.value, found.low, found.high
    if plan.direction == "maximize":
        value, low, high = -value, -high, -low
    p = min(1.0, found.p * plan.n_interactions) if math.isfinite(found.p) else nan
    return Interaction(name, value, low, high, p, 1 - alpha, found.is_shown, found.value < 0, found.note)
