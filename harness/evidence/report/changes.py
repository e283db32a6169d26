"""The configurations before and after, generated from the two resolved ones, and what follows for the effects."""

from collections.abc import Sequence

from harness.diagnosis.history import History
from harness.evidence.comparing.setting_differences import SHARED_FACTS, Kind, SettingComparison, compare_settings
from harness.evidence.report.document import (
    Block,
    Code,
    CommandLines,
    Name,
    Paragraph,
    ReportSection,
    ReportTable,
    Text,
)
from harness.evidence.report.numbers import NumberBook, Reading
from harness.evidence.report.phrases import format_cell, join_spans, make_id

KINDS: dict[str, tuple[Kind, ...]] = {
    "setting": ("setting", "seed"),
    "in effect, read back from the built objects": ("in effect",),
    "code and machine": ("code", "environment"),
}


def compare_configs(
    book: NumberBook,
    names: Sequence[str],
    histories: Sequence[History],
    commands: Sequence[str],
    unset: str,
    is_taken_apart: bool = False,
) -> ReportSection:
    """Return the settings in which the runs differ from the first one.

    `unset` stands for a value that none has. `is_taken_apart` says that the report has the effect of each change too.
    """
    comparison = compare_settings(histories)
    blocks: list[Block] = []
    unset = "not recorded" if comparison.by_facts else unset
    for title, kinds in KINDS.items():
        found = [one for one in comparison.differences if one.kind in kinds]
        if found:
            rows = tuple(
                ((Code(one.key),), *((unset,) if value is None else format_cell(value) for value in one.values))
                for one in found
            )
            blocks.append(ReportTable(((title,), *((Name(name),) for name in names)), rows))
    blocks += [
        Paragraph(text)
        for index in range(1, len(names))
        for text in describe_changes(book, comparison, names, index, is_taken_apart)
    ]
    if comparison.by_facts:
        facts = join_spans(Code(fact) for fact in SHARED_FACTS)
        blocks.append(
            Paragraph(("The runs name their settings differently, so that only these were compared: ", *facts, "."))
        )
    if comparison.unknown:
        unknown = join_spans(Name(names[index]) for index in comparison.unknown)
        blocks.append(Paragraph(("Not recorded: the settings of ", *unknown, ".")))
    known = [(name, command) for name, command in zip(names, commands, strict=True) if command]
    if known:
        blocks.append(Paragraph(("The commands: ", *join_spans(Name(name) for name, _ in known), ".")))
        blocks.append(CommandLines(tuple(command for _, command in known)))
    caption = (
        "Generated from the recorded configurations; settings that are the same, or only name a run, are left out."
    )
    return ReportSection("configs", "Configurations before and after", (Paragraph((caption,)), *blocks))


def describe_changes(
    book: NumberBook, comparison: SettingComparison, names: Sequence[str], index: int, is_taken_apart: bool
) -> list[Text]:
    """Return what changed from the first run to another one: one setting, or several with one joint effect."""
    if 0 in comparison.unknown or index in comparison.unknown:
        return [("Which settings differ is not recorded, so that a difference between ", Name(names[0]), " and ",
                 Name(names[index]), " has no known cause.")]  # fmt: skip
    list_changes = comparison.list_known_changes if comparison.by_facts else comparison.list_changes
    others: tuple[tuple[str, Kind], ...] = (("the seed", "seed"), ("the code", "code"))
    changes = list_changes(0, index) + [name for name, kind in others if _is_other(comparison, index, kind)]
    change: Text = ("Changed from ", Name(names[0]), " to ", Name(names[index]), ": ")
    if not changes:
        return [(*change, "no recorded setting; a difference comes from what is not recorded.")]
    listed = join_spans(Name(change) if change.startswith("the ") else Code(change) for change in changes)
    if len(changes) == 1:
        return [(*change, *listed, " only.")]
    place = Reading(f"{names[0]}, {names[index]}", "settings, seed and code that differ; a component is one")
    count = book.read(make_id("changes", names[index]), len(changes), "", place, "whole")
    if is_taken_apart:
        words = ". They changed together in these runs; the ablation below takes those apart that were searched."
        return [(*change, count, " things, ", *listed, words)]
    return [(*change, count, " things, ", *listed,
             ". They changed together: what was measured is one joint effect, and no part of it can be credited to one "
             "of them.")]  # fmt: skip


def _is_other(comparison: SettingComparison, index: int, kind: Kind) -> bool:
    """Return whether something of a kind is known of both runs and differs."""
    pairs = [(one.values[0], one.values[index]) for one in comparison.of_kind(kind)]
    return any(left != right and None not in (left, right) for left, right in pairs)
