"""The plan and the result of a confirmation in words."""

from collections.abc import Iterator

from harness.core.formatting import (
    format_confidence,
    format_interval,
    format_number,
    format_signed,
    objective_label,
)
from harness.evidence.confirm.plan import Confirmation, ConfirmPlan, Verdict
from harness.evidence.confirm.result import ConfirmResult, SelectionGap
from harness.evidence.seed_runs import describe_commands, describe_cost, format_values


def describe_confirmation(confirmation: Confirmation, *, has_all_commands: bool = False) -> list[str]:
    """Return what will be run, on which seeds, and what the claim will be about, in lines."""
    plan, workers = confirmation.plan, confirmation.runs.rerun.workers
    sweep = ", the configuration before the sweep" if plan.n_measured else ""
    names = ", ".join(one.name for one in plan.candidates)
    chosen = f" (chosen from {plan.n_measured} trials)" if plan.n_measured else ""
    looks = [f"{n}" for n in plan.looks]
    when = f"after {', '.join(looks[:-1])} and {looks[-1]} seeds" if looks[1:] else f"after {looks[0]} seeds"
    return [
        f"Confirming {names}{chosen} against the baseline{sweep}, on seeds {plan.seeds[0]} to {plan.seeds[-1]}: at "
        f"most {confirmation.max_runs} runs by {workers}, in {confirmation.folder}",
        f"the claim is about {objective_label(plan.metric)} on the {plan.split} data, compared in pairs by seed {when}",
        *describe_commands(confirmation.runs, plan.seeds[0], has_all=has_all_commands),
    ]


def format_confirm_result(result: ConfirmResult) -> Iterator[str]:
    """Yield the result of a confirmation in lines: means, verdicts, gaps and cost."""
    plan = result.plan
    for name in plan.configs:
        average, values = format_values(result.runs, name, plan.metric)
        yield f"{name}: {objective_label(plan.metric)} {average} ({values})"
    for candidate in plan.candidates:
        if verdict := result.evaluation.verdicts.get(candidate.name):
            yield from format_verdict(plan, verdict)
    for gap in result.list_gaps():
        if line := _format_gap(plan, gap):
            yield line
    if result.reason:
        yield f"{result.status}: {result.reason}"
    yield describe_cost(result.runs)


def format_verdict(plan: ConfirmPlan, verdict: Verdict) -> Iterator[str]:
    """Yield the verdict on a candidate: status, difference, interval, p, n, and what it was chosen from."""
    claim = {
        "better": "is better than the baseline",
        "worse": "is worse than the baseline",
        "equivalent": f"is equivalent to the baseline, within ±{plan.margin:g}" if plan.margin else "is equivalent",
        "not shown": "no difference from the baseline was shown",
    }[verdict.status]
    head = f"{verdict.candidate}{':' if verdict.status == 'not shown' else ''} {claim}"
    if verdict.comparison is None:
        yield f"{head}: {verdict.reason}"
        return
    yield f"{head}: {format_difference(plan, verdict)}"
    notes = list(verdict.comparison.notes)
    if plan.looks[1:]:
        notes.append(f"compared after {verdict.n} of at most {plan.looks[-1]} seeds, at the level of this look")
        if plan.candidates[1:]:
            notes.append(f"corrected for {len(plan.candidates)} candidates by Bonferroni's method")
    for note in notes:
        yield f"  {note}"


def format_difference(plan: ConfirmPlan, verdict: Verdict) -> str:
    """Return the difference with its interval, p and n."""
    comparison = verdict.comparison
    assert comparison is not None
    confidence = f"{format_confidence(comparison.confidence)} interval {format_interval(verdict.low, verdict.high)}"
    difference = f"{objective_label(plan.metric)} {format_signed(verdict.difference)}"
    return ", ".join([difference, confidence, f"p {verdict.p:.2g}", f"{verdict.n} pairs"])


def describe_config_result(result: ConfirmResult, name: str) -> str:
    """Return the mean of a configuration, and the verdict on it, in a few words."""
    average = result.compute_mean(name, result.plan.metric)
    mean_text = "no result" if average is None else f"mean {format_number(average)}"
    verdict = result.evaluation.verdicts.get(name)
    if verdict is None:
        return mean_text
    detail = format_difference(result.plan, verdict) if verdict.comparison else verdict.reason
    return f"{mean_text}; {verdict.status}: {detail}"


def _format_gap(plan: ConfirmPlan, gap: SelectionGap) -> str:
    """Return by how much a candidate's value in the sweep was too good, or an empty string if that is unknown."""
    if gap.validation_gap is None or gap.name == plan.baseline.name:
        return ""
    assert gap.selected is not None
    assert gap.validation is not None
    label = objective_label(plan.objective)
    parts = [
        f"{label} {format_number(gap.selected)} in the sweep",
        f"{format_number(gap.validation)} on fresh seeds ({_describe_gap(plan, gap.validation_gap)})",
    ]
    if gap.test is not None and gap.test_gap is not None:
        parts.append(f"{format_number(gap.test)} on test data ({_describe_gap(plan, gap.test_gap)})")
    return f"{gap.name}: {', '.join(parts)}"


def _describe_gap(plan: ConfirmPlan, gap: float) -> str:
    """Return a difference between two stages as its direction in words and its size."""
    if not gap:
        return "the same"
    is_worse = (gap < 0) == (plan.direction == "maximize")
    return f"{'worse' if is_worse else 'better'} by {format_number(abs(gap))}"
