"""The values of an ablation as numbers of a report: effects with their shares, and interactions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness.evidence.ablation.ablation import ABLATION_FOLDER
from harness.evidence.ablation.changes import Change
from harness.evidence.ablation.effects import weigh_interactions
from harness.evidence.ablation.plan import AblationPlan
from harness.evidence.ablation.result import ABLATION_FILE
from harness.evidence.report.ablation_check import check_effects
from harness.evidence.report.document import Bare, Claim, Span
from harness.evidence.report.numbers import Number
from harness.evidence.report.phrases import make_id
from harness.evidence.report.seed_values import ComparedNumbers, SeedValues
from harness.evidence.report.verdict_check import read_float

KINDS = {"forward": "alone", "backward": "on top of the others"}
ALL_CHANGES = "all changes"


class InteractionNumbers(NamedTuple):
    """The numbers of an interaction; `claim` says whether changes bring more or less together, if that was shown."""

    difference: Number
    low: Number
    high: Number
    p: Number
    claim: Claim | None


@dataclass
class Ablated(SeedValues):
    """An ablation.

    Raises:
        ConfigError: If an effect is not what its runs give.
    """

    file = ABLATION_FILE
    folder = ABLATION_FOLDER
    plan: AblationPlan = field(init=False)

    def __post_init__(self) -> None:
        self.plan = check_effects(self.content)
        super().__post_init__()

    @property
    def gain(self) -> Mapping[str, Any] | None:
        """The comparison of the winner with the baseline; None before all runs are over."""
        gain: Mapping[str, Any] | None = self.content["gain"]
        return gain

    @property
    def candidate(self) -> str:
        """The name of the trial that is taken apart."""
        return f"trial {self.plan.winner.trial}"

    def has_measured(self, trial: int) -> bool:
        """Return whether it compares a trial of the sweep with the baseline."""
        return self.gain is not None and self.plan.winner.trial == trial

    def find_effect(self, change: Change, kind: str) -> Mapping[str, Any]:
        return next(one for one in self.content["effects"] if (one["change"], one["kind"]) == (change.name, kind))

    def list_measured(self) -> list[Mapping[str, Any]]:
        """Return the whole difference and the effects that have a result."""
        found = [self.gain, *self.content["effects"]]
        return [effect for effect in found if effect and not effect["reason"]]

    def list_interactions(self) -> list[Mapping[str, Any]]:
        return list(self.content["interactions"])

    def add_effect(self, effect: Mapping[str, Any]) -> ComparedNumbers:
        """Return the numbers of an effect that was measured, or of the whole difference."""
        sides, what = (str(effect["first"]), str(effect["second"])), f"{effect['kind']} {effect['change']}".strip()
        return self.add_comparison(self._make_effect_id(effect), sides, effect, what)

    def _make_effect_id(self, effect: Mapping[str, Any]) -> str:
        names = [change.name for change in self.plan.changes]
        if effect["kind"] == "gain":
            return make_id(self.folder, "gain")
        return make_id(self.folder, f"change {names.index(effect['change']) + 1}", effect["kind"])

    def spell_share(self, effect: Mapping[str, Any]) -> list[Span]:
        """Return which share of the whole difference an effect is, with its formula; nothing unless both were shown."""
        if self.gain is None or effect["share"] is None or effect["status"] != "better":
            return []
        part, whole = self.add_effect(effect).difference, self.add_effect(self.gain).difference
        id = f"{self._make_effect_id(effect)}.share"
        share = self.book.compute(id, f"{part.id} / {whole.id} * 100", "%", "signed percent")
        return [" (share of the whole: ", share, " = ", Bare(part), " / ", Bare(whole), ")"]

    def add_interaction(self, interaction: Mapping[str, Any]) -> InteractionNumbers | None:
        """Return the numbers of an interaction; None if it has none."""
        if math.isnan(read_float(interaction["p"]) or 0.0):
            return None
        weights = weigh_interactions(self.plan)
        name = str(interaction["change"])
        id = make_id(self.folder, f"interaction {list(weights).index(name) + 1}")
        terms = []
        for config, weight in weights[name].items():
            mean = self.add_mean(config, self.metric)
            assert mean is not None, "it would have no p"
            factor = "" if abs(weight) == 1 else f"{abs(weight):g} * "
            terms.append(f"{'-' if weight < 0 else '+'} {factor}{mean.id}")
        expression = " ".join(terms).removeprefix("+ ")
        difference = self.book.compute(f"{id}.difference", expression, self.unit, "signed")
        low, high, p = (
            self.read(f"{id}.{key}", interaction[key], f"{key} of the interaction of {name}", unit, style=style)
            for key, unit, style in (("low", self.unit, "signed"), ("high", self.unit, "signed"), ("p", "", "p"))
        )
        claim = None
        if interaction["is_shown"]:
            word = "more" if interaction["is_synergy"] else "less"
            is_above = interaction["is_synergy"] == self.is_maximized
            claim = Claim(word, f"{low.id} > 0" if is_above else f"{high.id} < 0")
        return InteractionNumbers(difference, low, high, p, claim)

    def count_ended(self, config: str, status: str) -> tuple[Number, Number]:
        """Return how many runs of a configuration ended with a status, and how many there are."""
        runs, id = self.configs[config]["runs"], self.make_id(config)
        count = sum(run["status"] == status for run in runs)
        return (
            self.read(f"{id}.{make_id(status)}", count, f"runs of {config} that are {status}", style="whole"),
            self.read(f"{id}.runs", len(runs), f"runs of {config}", style="whole"),
        )
