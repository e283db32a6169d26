"""Confirmation on fresh seeds: verdicts with their intervals, the seeds behind them, and the selection gap.

It reads the content of confirm.json. Means and differences are computed from the values of the runs; intervals and p
are those of the verdicts, which rest on the same values.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.formatting import objective_label
from harness.evidence.confirm.result import CONFIRM_FILE
from harness.evidence.report.confirmed_figures import draw_gaps, draw_intervals, draw_seeds
from harness.evidence.report.confirmed_values import Confirmed
from harness.evidence.report.document import (
    Bare,
    Block,
    Claim,
    Code,
    CommandLines,
    Name,
    Paragraph,
    Quote,
    ReportSection,
    ReportTable,
    Span,
    Text,
)
from harness.evidence.report.numbers import Number
from harness.evidence.report.phrases import DASH
from harness.evidence.report.seed_values import spell_interval
from harness.evidence.report.study_numbers import cell_of
from harness.evidence.report.verdict_check import read_float


def describe_verdict(confirmed: Confirmed, verdict: Mapping[str, Any]) -> Text:
    """Return the verdict on a candidate with difference, interval, n, p and what it was chosen from."""
    name, status, on = str(verdict["candidate"]), str(verdict["status"]), confirmed.on_split
    if verdict.get("reason"):
        return (Name(name), ": no verdict, since ", Quote(str(verdict["reason"]), CONFIRM_FILE), ".")
    sides = next(iter(confirmed.configs)), name
    numbers = confirmed.add_comparison(confirmed.make_id(name), sides, verdict, name, int(verdict["n"]))
    head: tuple[Span, ...] = (f": no difference from the baseline was shown{on}",)
    if claim := confirmed.make_claim(status, numbers):
        head = (" is ", claim, f" than the baseline{on}")
    elif status == "equivalent":
        margin = confirmed.read("confirm.margin", confirmed.content["margin"], "margin", confirmed.unit)
        words = Claim("equivalent", f"abs({numbers.difference.id}) < {margin.id}")
        head = (" is ", words, f" to the baseline{on}, within plus or minus ", margin)
    interval = spell_interval(numbers)
    return (Name(name), *head, ": ", Name(confirmed.label), " differs by ", numbers.difference,
            " (", *interval, *confirmed.spell_choice(), ").")  # fmt: skip


def report_confirmation(confirmed: Confirmed | None, command: str = "", is_taken_apart: bool = False) -> ReportSection:
    """Return the confirmation, or that nothing was confirmed with the `command` that does it, if there is one.

    `is_taken_apart` says that an ablation has compared the best trial with the baseline.
    """
    if confirmed is None and is_taken_apart:
        words: Text = ("No confirmation was run; the ablation below compares the best trial with the baseline on fresh "
                       "seeds.",)  # fmt: skip
        return ReportSection("confirmed", "Confirmation on fresh seeds", (Paragraph(words),))
    if confirmed is None:
        blocks: list[Block] = [Paragraph(("Nothing was confirmed.",))]
        if command:
            blocks.append(Paragraph(("This command runs the baseline and the best trials on fresh seeds, and says what "
                                     "their difference shows:",)))  # fmt: skip
            blocks.append(CommandLines((command,)))
        return ReportSection("confirmed", "Confirmation on fresh seeds", tuple(blocks))
    blocks = [Paragraph(describe_verdict(confirmed, verdict)) for verdict in confirmed.verdicts]
    if not confirmed.verdicts:
        blocks.append(Paragraph(_describe_state(confirmed)))
    blocks += [*draw_intervals(confirmed), confirmed.tabulate_seeds(), *draw_seeds(confirmed)]
    blocks += _tabulate_gaps(confirmed)
    named = [(str(verdict["candidate"]), verdict) for verdict in confirmed.verdicts]
    blocks += map(Paragraph, confirmed.describe_method(named))
    return ReportSection("confirmed", "Confirmation on fresh seeds", tuple(blocks))


def format_confirm_command(study: str, options: str | None) -> str:
    """Return the command that confirms a study with the options that its program needs; empty if it cannot."""
    return "" if options is None else f"plateau confirm {shlex.quote(study)} {options}".rstrip()


def _describe_state(confirmed: Confirmed) -> Text:
    reason = str(confirmed.content.get("reason") or "")
    because: Sequence[Span] = (", since ", Quote(reason, CONFIRM_FILE)) if reason else ()
    status = Name(str(confirmed.content["status"]))
    command = str(confirmed.content.get("command") or "")
    remedy: Sequence[Span] = (" ", Code(command), " continues it.") if command else ()
    return ("The confirmation has no verdict yet: its status is ", status, *because, ".", *remedy)


def _tabulate_gaps(confirmed: Confirmed) -> list[Block]:
    """Return by how much the value that each configuration was chosen by differs from that on fresh seeds."""
    is_test = confirmed.split == "test"
    rows = []
    for name, config in confirmed.configs.items():
        selected = read_float(config.get("selected_value"))
        fresh = confirmed.add_mean(name, confirmed.objective)
        if selected is None or fresh is None:
            continue
        id = confirmed.make_id(name)
        chosen = confirmed.read(f"{id}.selected", selected, f"selected_value of {name}", confirmed.unit, style="loss")
        cells = [
            chosen,
            fresh,
            confirmed.book.compute(f"{id}.gap", f"{fresh.id} - {chosen.id}", confirmed.unit, "signed"),
        ]
        test = confirmed.add_mean(name, confirmed.metric) if is_test else None
        if test is not None:
            cells.append(test)
            cells.append(confirmed.book.compute(f"{id}.test_gap", f"{test.id} - {fresh.id}", confirmed.unit, "signed"))
        row: list[Text] = [(Name(name),), *(_spell_gap(confirmed, one) if index in (2, 4) else cell_of(one)
                                            for index, one in enumerate(cells))]  # fmt: skip
        rows.append(tuple(row + [DASH] * ((5 if is_test else 3) + 1 - len(row))))
    if not rows:
        return []
    header: list[Text] = [("",), ("in the sweep",), ("mean on fresh seeds",), ("on fresh seeds, against the sweep",)]
    header += [("mean on the test split",), ("on the test split, against validation",)] if is_test else []
    label = Name(objective_label(confirmed.objective))
    caption: Text = (
        "The value that a configuration was chosen by, and what fresh seeds give (", label, "). A chosen trial owes "
        "its value in the sweep partly to luck. The difference of the baseline, which was not chosen, is seed noise.",
    )  # fmt: skip
    return [ReportTable(tuple(header), tuple(rows), caption), *draw_gaps(confirmed)]


def _spell_gap(confirmed: Confirmed, gap: Number) -> Text:
    """Return a difference between two stages as its direction in words and its size."""
    if not gap.value:
        return cell_of(gap)
    is_worse = (gap.value < 0) == confirmed.is_maximized
    word = Claim("worse" if is_worse else "better", f"{gap.id} {'<' if gap.value < 0 else '>'} 0")
    size = confirmed.book.compute(f"{gap.id}_size", f"abs({gap.id})", gap.unit, "loss")
    return (word, " by ", Bare(size))
