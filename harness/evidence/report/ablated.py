"""Ablation on fresh seeds: the effect of each change alone and on top of the others, and their interactions.

It reads the content of ablation.json. Differences are computed from the values of the runs; intervals and p are those
of the file, which the same runs give.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.evidence.ablation.changes import Change
from harness.evidence.ablation.plan import WINNER
from harness.evidence.ablation.result import ABLATION_FILE
from harness.evidence.report.ablated_figures import draw_effects
from harness.evidence.report.ablated_values import ALL_CHANGES, KINDS, Ablated
from harness.evidence.report.document import (
    Bare,
    Block,
    BulletList,
    Claim,
    Code,
    Name,
    Paragraph,
    Quote,
    ReportSection,
    ReportTable,
    Span,
    Text,
)
from harness.evidence.report.phrases import DASH, join_spans, shorten_text
from harness.evidence.report.seed_values import spell_interval

TITLE = "Ablation: each change alone, and left out"


def describe_gain(ablated: Ablated) -> Text:
    """Return what the ablation shows of all changes together, or that it is not over."""
    if ablated.gain is None:
        return _describe_state(ablated)
    numbers, on = ablated.add_effect(ablated.gain), ablated.on_split
    claim = ablated.make_claim(str(ablated.gain["status"]), numbers)
    head: Text = (" is ", claim, f" than the baseline{on}") if claim else (
        f": no difference from the baseline was shown{on}",
    )  # fmt: skip
    return (Name(ablated.candidate), *head, ", in the runs of the ablation: ", Name(ablated.label), " differs by ",
            numbers.difference, " (", *spell_interval(numbers), *ablated.spell_choice(), ").")  # fmt: skip


def summarize_ablation(ablated: Ablated) -> Text:
    """Return the changes of which an effect was shown."""
    if ablated.gain is None:
        return _describe_state(ablated)
    spans: list[Span] = ["Changes of ", Name(ablated.candidate), " with an effect that was shown on fresh seeds, "]
    for kind, words in KINDS.items():
        found: list[Text] = []
        for change in ablated.plan.changes:
            if claim := _claim_effect(ablated, ablated.find_effect(change, kind)):
                found.append((Name(change.name), " (", claim, ")"))
        spans += [f"{words}: ", *(join_spans(found) or ["none"]), "; " if kind == "forward" else "."]
    return tuple(spans)


def format_ablate_command(study: str, options: str | None) -> str:
    """Return the command that takes the best trial apart, with the options that the program needs."""
    return f"plateau ablate {shlex.quote(study)} {options or ''}".rstrip()


def report_ablation(ablated: Ablated) -> ReportSection:
    """Return what each change between the baseline and a trial does, as far as the ablation has come."""
    blocks: list[Block] = [Paragraph(describe_gain(ablated)), _tabulate_changes(ablated)]
    if ablated.gain is not None:
        blocks.append(BulletList(tuple(_describe_change(ablated, change) for change in ablated.plan.changes)))
        if ablated.content["reason"]:
            blocks.append(Paragraph(_describe_state(ablated)))
        blocks += [*draw_effects(ablated), _tabulate_effects(ablated)]
        blocks += _describe_together(ablated)
    if failures := _list_failures(ablated):
        blocks += [Paragraph(("What failed:",)), BulletList(tuple(failures))]
    caption: Text = ("Every run; ", Name(WINNER), " is ", Name(ablated.candidate), ".")
    blocks.append(replace(ablated.tabulate_seeds(has_row_for_seed=False), caption=caption))
    named = [(_name_effect(effect), effect) for effect in ablated.list_measured()]
    blocks += map(Paragraph, ablated.describe_method(named))
    return ReportSection("ablated", TITLE, tuple(blocks))


def _name_effect(effect: Mapping[str, Any]) -> str:
    return ALL_CHANGES if effect["kind"] == "gain" else f"{effect['change']} {KINDS[effect['kind']]}"


def _describe_state(ablated: Ablated) -> Text:
    reason = str(ablated.content["reason"])
    because: Sequence[Span] = (", since ", Quote(reason, ABLATION_FILE)) if reason else ()
    words: Text = ("The ablation of ", Name(ablated.candidate), " is not complete: its status is ",
                   Name(str(ablated.content["status"])), *because, ".")  # fmt: skip
    if ablated.content["status"] == "failed":
        return words
    command = Code(format_ablate_command(ablated.study, ablated.rerun_options))
    return (*words, " ", command, ", with the options that it was begun with, continues it.")


def _tabulate_changes(ablated: Ablated) -> ReportTable:
    """Return the settings that each change sets."""
    changes = ablated.plan.changes
    is_joint = any(len(change.keys) > 1 for change in changes)
    rows = []
    for change in changes:
        for index, key in enumerate(change.keys):
            first: list[Text] = [(Name("" if index else change.name),)] if is_joint else []
            cells = (_format_side(change.before, key), _format_side(change.after, key))
            rows.append((*first, (Code(key),), *cells))
    header: list[Text] = [("change",)] if is_joint else []
    caption: Text = ("Settings of one change are made together.",) if is_joint else ()
    return ReportTable((*header, ("setting",), ("before",), ("after",)), tuple(rows), caption)


def _format_side(values: Mapping[str, Any], key: str) -> Text:
    if key not in values:
        return ("not set",)
    return (Code("null" if values[key] is None else shorten_text(str(values[key]))),)


def _describe_change(ablated: Ablated, change: Change) -> Text:
    spans: list[Span] = [Name(change.name), ": "]
    for kind, words in KINDS.items():
        spans += [f"{words} ", *_describe_effect(ablated, ablated.find_effect(change, kind))]
        spans.append("; " if kind == "forward" else ". ")
    interaction = next((one for one in ablated.list_interactions() if one["change"] == change.name), None)
    return (*spans, *([] if interaction is None else _describe_interaction(ablated, interaction)))


def _describe_effect(ablated: Ablated, effect: Mapping[str, Any]) -> list[Span]:
    """Return what an effect was shown to be, with its share of the whole, or how many runs diverged."""
    if effect["reason"]:
        return ["it has no result, since ", Quote(str(effect["reason"]), ABLATION_FILE)]
    claim = _claim_effect(ablated, effect)
    shown: list[Span] = ["it is ", claim] if claim else ["no effect was shown"]
    sides = [("diverged_baseline", "first"), ("diverged_candidate", "second")]
    diverged = [str(effect[side]) for key, side in sides if effect[key]]
    if diverged:
        counts = [(count, " of ", total, " runs of ", Name(config), " diverged") for config in diverged
                  for count, total in (ablated.count_ended(config, "diverged"),)]  # fmt: skip
        return [*shown, " (", *join_spans(counts), ")"]
    if not claim:
        return shown
    return [*shown, ", by ", ablated.add_effect(effect).difference, *ablated.spell_share(effect)]


def _claim_effect(ablated: Ablated, effect: Mapping[str, Any]) -> Claim | None:
    return None if effect["reason"] else ablated.make_claim(str(effect["status"]), ablated.add_effect(effect))


def _describe_interaction(ablated: Ablated, interaction: Mapping[str, Any]) -> list[Span]:
    numbers = ablated.add_interaction(interaction)
    if numbers is None:
        return ["Its interaction with the others has no number, since ", Quote(interaction["reason"], ABLATION_FILE),
                "."]  # fmt: skip
    if numbers.claim is None:
        return ["No interaction with the others was shown."]
    return ["It brings ", numbers.claim, " with the others than alone."]


def _tabulate_effects(ablated: Ablated) -> ReportTable:
    assert ablated.gain is not None
    rows = [_make_row(ablated, (ALL_CHANGES,), "together", ablated.gain)]
    rows += [
        _make_row(ablated, (Name(change.name),), words, ablated.find_effect(change, kind))
        for change in ablated.plan.changes
        for kind, words in KINDS.items()
    ]
    effects = [effect for effect in ablated.list_measured() if effect["kind"] != "gain"]
    caption: Text = (
        "Alone: the baseline with the change, minus the baseline. On top of the others: ", Name(ablated.candidate),
        " minus ", Name(ablated.candidate), " without the change. ",
    )  # fmt: skip
    if effects:
        count = ablated.read("ablation.effects", ablated.plan.n_effects, "effects of single changes", style="whole")
        level = ablated.read("ablation.confidence", ablated.plan.confidence, "confidence", style="confidence")
        each = ablated.add_effect(effects[0]).confidence
        caption = (
            *caption, "The intervals of the ", count, " effects hold together at confidence ", level,
                   ", each at ", each, "; their p are corrected in the same way. That of all changes stands alone.",
        )  # fmt: skip
    header: list[Text] = [("change",), ("made",), _head_difference(ablated), ("from",), ("to",), ("p",), ("shown",)]
    return ReportTable(tuple(header), tuple(rows), caption)


def _head_difference(ablated: Ablated) -> Text:
    return ("difference (", Name(ablated.unit), ")") if ablated.unit else ("difference",)


def _make_row(ablated: Ablated, name: Text, words: str, effect: Mapping[str, Any]) -> tuple[Text, ...]:
    if effect["reason"]:
        return (name, (words,), DASH, DASH, DASH, DASH, ("no result",))
    numbers, claim = ablated.add_effect(effect), _claim_effect(ablated, effect)
    shown: Text = (claim,) if claim else ("not shown",)
    cells = [(Bare(number),) for number in (numbers.difference, numbers.low, numbers.high, numbers.p)]
    return (name, (words,), *cells, shown)


def _describe_together(ablated: Ablated) -> list[Block]:
    """Return the interactions, and how the effects alone add up."""
    rows: list[tuple[Text, ...]] = []
    reasons: list[Paragraph] = []
    own = {change.name for change in ablated.plan.changes}  # the list of changes has their reasons
    for interaction in ablated.list_interactions():
        name, numbers = Name(str(interaction["change"])), ablated.add_interaction(interaction)
        if numbers is None:
            rows.append(((name,), DASH, DASH, DASH, DASH, ("no number",)))
            reason = Quote(str(interaction["reason"]), ABLATION_FILE)
            reasons += (
                [] if name.text in own else [Paragraph(("Interaction of ", name, ": no number, since ", reason, "."))]
            )
            continue
        shown: Text = (numbers.claim, " with the others") if numbers.claim else ("not shown",)
        cells = [(Bare(number),) for number in (numbers.difference, numbers.low, numbers.high, numbers.p)]
        rows.append(((name,), *cells, shown))
    header: list[Text] = [("interaction of",), _head_difference(ablated), ("from",), ("to",), ("p",), ("shown",)]
    caption: Text = (
        "Interaction: the effect on top of the others minus the effect alone; of all changes, the whole difference "
        "minus the sum of the effects alone. Their intervals hold together at the same confidence.",
    )  # fmt: skip
    blocks: list[Block] = [ReportTable(tuple(header), tuple(rows), caption), *reasons]
    effects = [ablated.find_effect(change, "forward") for change in ablated.plan.changes]
    diverged = ("diverged_baseline", "diverged_candidate")
    has_sum = not any(effect["reason"] or any(effect[key] for key in diverged) for effect in effects)
    if ablated.gain is not None and has_sum:
        ids = [ablated.add_effect(effect).difference.id for effect in effects]
        total = ablated.book.compute("ablation.sum", f"sum({', '.join(ids)})", ablated.unit, "signed")
        whole = ablated.add_effect(ablated.gain).difference
        blocks.append(Paragraph(("The effects alone sum to ", total, "; all changes together make ", whole, ".")))
    return blocks


def _list_failures(ablated: Ablated) -> list[Text]:
    """Return how many runs of each configuration ended without a value, and why the first of them did."""
    found: list[Text] = []
    for name, config in ablated.configs.items():
        by_status = {str(run["status"]): run for run in reversed(config["runs"]) if run["status"] != "completed"}
        for status, run in by_status.items():
            count, total = ablated.count_ended(name, status)
            reason = str(run.get("reason") or "")
            because: Sequence[Span] = (": ", Quote(reason, ABLATION_FILE)) if reason else ()
            found.append((count, " of ", total, " runs of ", Name(name), " ", Name(status), *because, "."))
    return found
