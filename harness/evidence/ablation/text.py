"""The plan and the result of an ablation in words."""

import math
from collections.abc import Iterator

from harness.core.formatting import format_interval, format_number, format_signed, objective_label
from harness.evidence.ablation.changes import Change
from harness.evidence.ablation.effects import ALL_TOGETHER, Effect, Interaction
from harness.evidence.ablation.plan import Ablation, AblationPlan
from harness.evidence.ablation.result import AblationResult
from harness.evidence.comparing.compare_tables import Section, Table
from harness.evidence.seed_runs import average_metric, describe_commands, describe_cost, format_values
from harness.evidence.statistics.sample_differences import find_fewest_pairs

NOT_SET = "not set"


def describe_ablation(ablation: Ablation, *, has_all_commands: bool = False) -> list[str]:
    """Return the changes, what will be run, and what the claim will be about, in lines."""
    plan, workers = ablation.plan, ablation.runs.rerun.workers
    fewest = find_fewest_pairs((1 - plan.confidence) / plan.n_effects)
    lines = [
        f"Taking trial {plan.winner.trial} apart: {len(plan.changes)} changes from the baseline, the configuration "
        f"before the sweep, each made alone and each left out: {len(plan.configs)} "
        f"configurations on seeds {plan.seeds[0]} to {plan.seeds[-1]}, "
        f"{ablation.n_runs} runs by {workers}, in {ablation.folder}",
        *(f"  {describe_change(change)}" for change in plan.changes),
        f"the claim is about {objective_label(plan.metric)} on the {plan.split} data, compared in pairs by seed",
        *describe_commands(ablation.runs, plan.seeds[0], has_all=has_all_commands),
    ]
    if len(plan.seeds) < fewest:
        lines.append(
            f"note: {len(plan.seeds)} seeds cannot show a single effect among {plan.n_effects}, whatever the losses; "
            f"--seeds {fewest} can"
        )
    return lines


def describe_change(change: Change) -> str:
    """Return a change as its name and the values before and after."""
    values = [
        f"{key} {change.before.get(key, NOT_SET)} → {change.after.get(key, NOT_SET)}"
        for key in (*change.after, *(key for key in change.before if key not in change.after))
    ]
    head = "" if len(values) == 1 else f"{change.name}: "
    return head + ", ".join(values)


def list_ablation_sections(result: AblationResult) -> list[Section]:
    """Return the result as tables and sentences."""
    plan, found = result.plan, result.evaluation
    label = objective_label(plan.metric)
    means = [(name, *format_values(result.runs, name, plan.metric)) for name in plan.configs]
    sections = [Section(f"{label} on the {plan.split} data", Table(("", "mean", "by seed"), tuple(means), False))]
    if found.gain:
        header = ("change", "alone", "on top of the others")
        table = Table(header, tuple(_list_effect_rows(result)), False)
        sections.append(Section("Effects", table, tuple(_list_sentences(result))))
    notes = [f"{result.status}: {result.reason}"] if result.reason else []
    notes.append(describe_cost(result.runs))
    return [*sections, Section(f"Ablation of {result.study}", None, tuple(notes))]


def describe_config_mean(result: AblationResult, name: str) -> str:
    """Return the mean of the metric of a configuration in a few words."""
    average = average_metric(result.runs, name, result.plan.metric)
    label = objective_label(result.plan.metric)
    return "no result" if average is None else f"{label} {format_number(average)} on the {result.plan.split} data"


def _list_effect_rows(result: AblationResult) -> Iterator[tuple[str, ...]]:
    effects = {(effect.change, effect.kind): effect for effect in result.evaluation.effects}
    for change in result.plan.changes:
        cells = (_format_cell(effects[change.name, kind]) for kind in ("forward", "backward"))
        yield (change.name, *cells)


def _format_cell(effect: Effect) -> str:
    if not effect.is_measured:
        return "no result"
    return f"{_format_difference(effect)} {effect.verdict.status}"


def _format_difference(found: Effect | Interaction) -> str:
    numbers = found.verdict if isinstance(found, Effect) else found
    return f"{format_signed(numbers.difference)} {format_interval(numbers.low, numbers.high)}"


def _list_sentences(result: AblationResult) -> Iterator[str]:
    """Yield what was shown: of the whole gain, each change, and their interactions."""
    plan, found = result.plan, result.evaluation
    assert found.gain is not None
    yield _describe_gain(result, found.gain)
    effects = {(effect.change, effect.kind): effect for effect in found.effects}
    interactions = {interaction.change: interaction for interaction in found.interactions}
    for change in plan.changes:
        forward, backward = effects[change.name, "forward"], effects[change.name, "backward"]
        parts = [
            f"alone {_describe_effect(result, forward)}",
            f"on top of the others {_describe_effect(result, backward)}",
        ]
        yield f"{change.name}: {'; '.join(parts)}"
        if interaction := interactions.get(change.name):
            yield f"  {_describe_interaction(plan, interaction, 'with the others')}"
    if len(plan.changes) == 2:
        yield _describe_interaction(plan, found.interactions[0], "together")
    elif total := interactions.get(ALL_TOGETHER):
        yield _describe_sum(plan, found.gain, total)
    comparison = found.gain.verdict.comparison
    level = f"{plan.confidence:.0%}"
    yield (
        f"intervals of the {plan.n_effects} effects hold together at {level}, and so do those of interactions "
        f"({plan.n_interactions}); {len(plan.seeds)} pairs"
    )
    yield from comparison.notes if comparison else ()


def _describe_gain(result: AblationResult, gain: Effect) -> str:
    plan, verdict = result.plan, gain.verdict
    label = objective_label(plan.metric)
    numbers = f"{label} {_format_difference(gain)} at {plan.confidence:.0%}, p {verdict.p:.2g}"
    winner = f"the winner (trial {plan.winner.trial})"
    if verdict.status == "not shown":
        return f"no difference between {winner} and the baseline was shown: {numbers}; so no shares of it are given"
    return f"{winner} is {verdict.status} than the baseline: {numbers}"


def _describe_effect(result: AblationResult, effect: Effect) -> str:
    """Return what an effect was shown to be, with its share of the whole gain."""
    if not effect.is_measured:
        return f"it has no result ({effect.verdict.reason})"
    if text := _describe_divergence(result, effect):
        return text
    verdict = effect.verdict
    if verdict.status == "not shown":
        return f"no effect was shown ({_format_difference(effect)})"
    if effect.share is None:
        return f"it is {verdict.status} ({_format_difference(effect)})"
    if verdict.status == "worse":
        return f"it is worse, by {format_number(abs(verdict.difference))} ({_format_difference(effect)})"
    part, _, whole = effect.share.text.partition("/")
    return f"it carries {part} of the gain of {whole} ({effect.share.value:.0%} = {effect.share.text})"


def _describe_divergence(result: AblationResult, effect: Effect) -> str:
    """Return what an effect was shown to be if runs diverged, and how many did; an empty string if none did."""
    counts = {name: result.count_diverged(name) for name in (effect.first, effect.second)}
    parts = [f"{diverged} of {total} runs of {name} diverged" for name, (diverged, total) in counts.items() if diverged]
    claims = {"better": "it is better", "worse": "it is worse"}
    return f"{claims.get(effect.verdict.status, 'no effect was shown')}: {', '.join(parts)}" if parts else ""


def _describe_interaction(plan: AblationPlan, found: Interaction, others: str) -> str:
    """Return whether a change has another effect with the others than alone."""
    if not math.isfinite(found.p):
        return f"interaction of {found.change}: no number ({found.reason})"
    numbers = f"{_format_difference(found)}, p {found.p:.2g}"
    if not found.is_shown:
        return f"interaction of {found.change}: none was shown ({numbers})"
    more = "more" if found.is_synergy else "less"
    verb = "bring" if others == "together" else "brings"
    return f"interaction: {found.change} {verb} {more} {others} than alone, by {numbers}"


def _describe_sum(plan: AblationPlan, gain: Effect, total: Interaction) -> str:
    """Return how the sum of the effects alone compares with the whole gain."""
    if not math.isfinite(total.p):
        return f"the sum of the effects alone has no number ({total.reason})"
    summed = gain.verdict.difference - total.difference
    numbers = f"{_format_difference(total)}, p {total.p:.2g}"
    shown = "differs from the sum" if total.is_shown else "no difference from the sum was shown"
    return (
        f"the effects alone sum to {format_signed(summed)}, all changes together make "
        f"{format_signed(gain.verdict.difference)}: {shown} ({numbers})"
    )
