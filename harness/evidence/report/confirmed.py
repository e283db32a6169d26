"""Confirmation on fresh seeds: verdicts with their intervals, the seeds behind them, and the selection gap.

It reads the content of confirm.json. Means and differences are computed from the values of the runs; intervals and p
are those of the verdicts, which rest on the same values.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.formatting import objective_label
from harness.evidence.report.confirmed_figures import draw_gaps, draw_intervals, draw_seeds
from harness.evidence.report.confirmed_values import PLACE, Confirmed
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
from harness.evidence.report.phrases import DASH, join_spans
from harness.evidence.report.study_numbers import cell_of
from harness.evidence.report.verdict_check import read_float


def describe_verdict(confirmed: Confirmed, verdict: Mapping[str, Any]) -> Text:
    """Return the verdict on a candidate with difference, interval, n, p and what it was chosen from."""
    name, status = str(verdict["candidate"]), str(verdict["status"])
    on = f" on the {confirmed.split} split" if confirmed.split in ("test", "validation") else ""
    if verdict.get("reason"):
        return (Name(name), ": no verdict, since ", Quote(str(verdict["reason"]), PLACE), ".")
    id = confirmed.make_id(name)
    n = confirmed.read(f"{id}.n", int(verdict["n"]), f"n of {name}", style="whole")
    computed = _compute_difference(confirmed, verdict)
    low, high, p = (
        confirmed.read(f"{id}.{key}", verdict[key], f"{key} of {name}", unit, style=style)
        for key, unit, style in (("low", confirmed.unit, "signed"), ("high", confirmed.unit, "signed"), ("p", "", "p"))
    )
    confidence = confirmed.read(f"{id}.confidence", verdict["confidence"], f"confidence of {name}")
    claims: dict[str, tuple[Span, ...]] = {
        "better": (" is ", Claim("better", f"{low.id} > 0" if confirmed.is_maximized else f"{high.id} < 0"),
                   f" than the baseline{on}"),
        "worse": (" is ", Claim("worse", f"{high.id} < 0" if confirmed.is_maximized else f"{low.id} > 0"),
                  f" than the baseline{on}"),
    }  # fmt: skip
    if status == "equivalent":
        margin = confirmed.read("confirm.margin", confirmed.content["margin"], "margin", confirmed.unit)
        words = Claim("equivalent", f"abs({computed.id}) < {margin.id}")
        claims[status] = (" is ", words, f" to the baseline{on}, within plus or minus ", margin)
    head = claims.get(status, (f": no difference from the baseline was shown{on}",))
    sides = " pairs of runs with the same seed" if verdict.get("paired") else " runs a side"
    spans: list[Span] = [
        Name(name), *head, ": ", Name(objective_label(confirmed.metric)), " differs by ", computed,
        " (interval ", Bare(low), " to ", Bare(high), " at confidence ", confidence, ", p = ", p, ", n = ", n, sides,
    ]  # fmt: skip
    chosen = confirmed.content.get("n_measured")
    if chosen is not None:
        spans += [
            "; chosen from ",
            confirmed.read("confirm.chosen_from", chosen, "n_measured", style="whole"),
            " trials",
        ]
    return (*spans, ").")


def _compute_difference(confirmed: Confirmed, verdict: Mapping[str, Any]) -> Number:
    """Return the difference of the means over the seeds of the verdict, computed from the values of the runs.

    If all runs of a side diverged, it is that of the verdict, which is not finite.
    """
    name, id = str(verdict["candidate"]), confirmed.make_id(str(verdict["candidate"]), "difference")
    sides = next(iter(confirmed.configs)), name
    means = [confirmed.add_mean(config, confirmed.metric, int(verdict["n"])) for config in sides]
    if means[0] is None or means[1] is None:
        options: dict[str, Any] = {"style": "signed"}
        return confirmed.read(id, verdict["difference"], f"difference of {name}", confirmed.unit, **options)
    return confirmed.book.compute(id, f"{means[1].id} - {means[0].id}", confirmed.unit, "signed")


def report_confirmation(confirmed: Confirmed | None, study: str, has_candidate: bool) -> ReportSection:
    """Return the confirmation, or that nothing was confirmed with the command that does it."""
    if confirmed is None:
        blocks: list[Block] = [Paragraph(("Nothing was confirmed.",))]
        if has_candidate:
            blocks.append(Paragraph(("This command runs the baseline and the best trials on fresh seeds, and says what "
                                     "their difference shows:",)))  # fmt: skip
            blocks.append(CommandLines((format_confirm_command(study),)))
        return ReportSection("confirmed", "Confirmation on fresh seeds", tuple(blocks))
    blocks = [Paragraph(describe_verdict(confirmed, verdict)) for verdict in confirmed.verdicts]
    if not confirmed.verdicts:
        blocks.append(Paragraph(_describe_state(confirmed)))
    blocks += [*draw_intervals(confirmed), _tabulate_seeds(confirmed), *draw_seeds(confirmed)]
    blocks += _tabulate_gaps(confirmed)
    notes = dict.fromkeys(str(note) for verdict in confirmed.verdicts for note in verdict.get("notes") or ())
    blocks += [Paragraph((Quote(note, f"{PLACE}, notes"), ".")) for note in notes]
    methods = dict.fromkeys(str(verdict["method"]) for verdict in confirmed.verdicts if verdict.get("method"))
    if methods:
        spans = join_spans([Quote(method, f"{PLACE}, method") for method in methods], "; ")
        fresh = " The seeds are ones that no trial of the sweep had." if confirmed.content.get("n_measured") else ""
        blocks.append(Paragraph(("Method: ", *spans, f".{fresh}")))
    return ReportSection("confirmed", "Confirmation on fresh seeds", tuple(blocks))


def format_confirm_command(study: str) -> str:
    return f"plateau confirm {shlex.quote(study)}"


def _describe_state(confirmed: Confirmed) -> Text:
    reason = str(confirmed.content.get("reason") or "")
    because: Sequence[Span] = (", since ", Quote(reason, PLACE)) if reason else ()
    status = Name(str(confirmed.content["status"]))
    return ("The confirmation has no verdict yet: its status is ", status, *because, ". ",
            Code(format_confirm_command(confirmed.study)), " continues it.")  # fmt: skip


def _tabulate_seeds(confirmed: Confirmed) -> ReportTable:
    names = list(confirmed.configs)
    rows = []
    for seed in confirmed.content["seeds"]:
        runs = [
            next((run for run in config["runs"] if run["seed"] == seed), None) for config in confirmed.configs.values()
        ]
        if not any(runs):
            continue
        cells = []
        for name, run in zip(names, runs, strict=True):
            values = {number.id: number for number in confirmed.list_values(name, confirmed.metric)}
            number = values.get(confirmed.make_id(name, f"seed {seed}", confirmed.metric))
            cells.append((Bare(number),) if number else (Name(str(run["status"])),) if run else DASH)
        rows.append(((Name(f"seed {seed}"),), *cells))
    means = [confirmed.add_mean(name, confirmed.metric) for name in names]
    if any(means):
        rows.append((("mean",), *(DASH if mean is None else (Bare(mean),) for mean in means)))
    label = Name(objective_label(confirmed.metric))
    unit: Text = (label, " (", Name(confirmed.unit), ")") if confirmed.unit else (label,)
    return ReportTable((unit, *((Name(name),) for name in names)), tuple(rows))


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
        row: list[Text] = [(Name(name),), *map(cell_of, cells)]
        rows.append(tuple(row + [DASH] * ((5 if is_test else 3) + 1 - len(row))))
    if not rows:
        return []
    header: list[Text] = [("",), ("in the sweep",), ("mean on fresh seeds",), ("fresh minus sweep",)]
    header += [("mean on the test split",), ("test minus validation",)] if is_test else []
    label = Name(objective_label(confirmed.objective))
    caption: Text = (
        "The value that a configuration was chosen by, and what fresh seeds give (", label, "): the gap is how much "
        "the choice flattered it. That of the baseline, which was not chosen, is seed noise.",
    )  # fmt: skip
    return [ReportTable(tuple(header), tuple(rows), caption), *draw_gaps(confirmed)]
