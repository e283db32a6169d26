"""Sections on a study: what was asked, what its trials measured, and which of them failed."""

import re
from datetime import UTC, datetime
from typing import Any

from harness.core.formatting import objective_label
from harness.diagnosis.comparability import get_last_coverage
from harness.evidence.report.document import (
    Block,
    BulletList,
    Code,
    CommandLines,
    Name,
    Paragraph,
    ReportSection,
    ReportTable,
    Span,
    Text,
)
from harness.evidence.report.numbers import Number, Reading
from harness.evidence.report.phrases import DASH, count_things, join_spans, make_id, spell_difference
from harness.evidence.report.study_figures import draw_figures
from harness.evidence.report.study_numbers import StudyNumbers, cell_of, is_same_trial, name_trial
from harness.record.trial_record import OWN_OBJECTIVE
from harness.sweep.results.formatting import format_param
from harness.sweep.results.summary import TrialSummary, count_paused

LOG_RANGE = re.compile(r"tag\(log,\s*interval\(([^()]*)\)\)")
MAX_ROWS = 12
"""Trials in the table; report.json has the numbers of these, the study those of all."""
PROGRAMS = {
    "training": "the training of this harness",
    "hydra_app": "a Hydra app",
    "command": "a command",
}


def describe_request(numbers: StudyNumbers) -> ReportSection:
    """Return what was asked: the command, the objective, the space and the budget."""
    source, book = numbers.source, numbers.book
    settings, summary = source.settings, source.summary
    study = Reading(f"study {source.name}", "n_trials in sweep.yaml")
    goals: list[Span] = []
    for objective, direction in zip(summary.objectives, summary.directions, strict=True):
        goals += ["; " if goals else "Objective: ", f"{direction} ", Code(objective)]
    goals += [", in ", Name(source.unit)] if source.unit else []
    trials = [*count_things(book, "study.requested", summary.budget.n_trials, study, "trial")]
    trials.append(" requested, " if summary.budget.runs is summary.budget.max_tokens is None else " at most, ")
    budget: list[Text] = [
        ("Trials: ", *trials, numbers.n_measured, " measured (completed, paused, pruned or diverged)."),
        ("Sampler: ", Code(_name_component(settings, "sampler")), ". Pruner: ",
         Code(_name_component(settings, "pruner")), "."),
    ]  # fmt: skip
    budget += [*_describe_pauses(numbers), *_describe_warm_start(numbers)]
    started = [trial.started_at for trial in summary.trials if trial.started_at]
    if started:
        budget.append(("Started: ", Name(_format_date(min(started))), "."))
    budget += describe_measure(numbers)
    kind = PROGRAMS.get(source.program, "a program")
    blocks: list[Block] = [Paragraph((f"A sweep of {kind}. ", *goals, ".")), BulletList(tuple(budget))]
    blocks.append(_tabulate_space(numbers))
    if command := str(settings.get("command", "")):
        blocks += [Paragraph(("The command of the sweep:",)), CommandLines((command,))]
    return ReportSection("asked", "What was asked", tuple(blocks))


def _describe_pauses(numbers: StudyNumbers) -> list[Text]:
    """Return the budget in runs and what is paused at each rung; nothing for a sweep without pauses."""
    summary, items = numbers.source.summary, list[Text]()
    if summary.budget.runs is not None:
        limit = numbers.read_study("study.runs", summary.budget.runs, "runs in sweep.yaml", style="plain")
        used = numbers.read_study(
            "study.runs_used", summary.runs_used, "sum of the shares of a run that the trials have done", style="plain"
        )
        items.append(("Budget: as much as ", limit, " whole runs, of which the trials have done ", used, "."))
    spans: list[Text] = []
    for rung, count in count_paused(summary.trials).items():
        number = numbers.read_study(f"study.paused.at{rung}", count, f"trials that are paused at {rung} % of a run")
        at = numbers.read_study(f"study.paused.rung{rung}", rung, "targets of paused trials, in percent of a run")
        spans.append((number, " after ", at, " % of a run"))
    if spans:
        items.append(("Paused, to be continued if the budget is raised: ", *join_spans(spans), "."))
    return items


def _describe_warm_start(numbers: StudyNumbers) -> list[Text]:
    """Return how many trials began with values of an earlier study or a range test; nothing without a warm start."""
    trials = [trial for trial in numbers.source.summary.trials if trial.prior]
    if not trials:
        return []
    count = numbers.read_study("study.prior", len(trials), "trials with values of the warm start")
    source = Name(str(trials[0].prior["source"]))
    return [("Warm start: ", count, " of the first trials took values of ", source, ".")]


def describe_measure(numbers: StudyNumbers) -> list[Text]:
    """Return what the objective was measured on: unit, data, share that was scored, and which evaluation counts."""
    source, summary = numbers.source, numbers.source.summary
    trial = summary.best_trial or summary.baseline
    history = source.read_history(trial) if trial else None
    if trial is None or history is None:
        return []
    if history.facts.data is None or source.objective != OWN_OBJECTIVE:
        how = source.settings.get("metric")
        words: Text = ("Measured: ", *((Name(str(how)), "; ") if how else ()), "its unit, and the data that it was "
                       "measured on, are not recorded.")  # fmt: skip
        return [words]
    place, data = source.name_place(trial), history.facts.data
    coverage, id = get_last_coverage(history), make_id(f"trial {trial.number}")
    share = numbers.book.read(f"{id}.coverage", coverage, "", Reading(place, "val/coverage"), "plain")
    count = Reading(place, "evaluations with a finite val/loss")
    evaluations = numbers.book.read(f"{id}.evaluations", len(history["val/loss"]), "", count, "whole")
    size: Text = (", ", Code(data.size)) if data.size else ()
    return [
        ("Measured: ", Name(source.label), ", the mean over the validation set, of which a share of ", share,
         " was scored; that of a trial is the lowest of its ", evaluations, " evaluations."),
        ("Validation data: ", Name(data.name), *size, ", digest ", Code(str(data.validation or data.digest)), "."),
    ]  # fmt: skip


def _tabulate_space(numbers: StudyNumbers) -> ReportTable:
    source = numbers.source
    space: dict[str, Any] = source.settings.get("space") or {}
    baseline, best = source.summary.baseline, source.summary.best_trial
    header: list[Text] = [("searched",), ("range",)]
    shown = [trial for trial in (baseline, best) if trial]
    header += [(name_trial(trial, source),) for trial in shown[: 1 if is_same_trial(baseline, best) else 2]]
    rows = []
    for key, text in space.items():
        plain = key.lstrip("+")
        values = [trial.params.get(plain, trial.params.get(key)) for trial in shown[: len(header) - 2]]
        cells = [("the program's own",) if value is None else (Code(format_param(value)),) for value in values]
        rows.append(((Code(key),), (Code(shorten_log_range(str(text))),), *cells))
    return ReportTable(tuple(header), tuple(rows))


def shorten_log_range(text: str) -> str:
    """Return a range as the command line takes it: `log(1e-3,1)` for `tag(log,interval(0.001,1.0))`."""

    def shorten(found: re.Match[str]) -> str:
        return f"log({','.join(_shorten_bound(bound.strip()) for bound in found[1].split(','))})"

    return LOG_RANGE.sub(shorten, text)


def _shorten_bound(text: str) -> str:
    plain = text.removesuffix(".0")
    digits, _, exponent = f"{float(text):e}".partition("e")
    short = f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return min((text for text in (plain, short) if float(text) == float(plain)), key=len, default=plain)


def _name_component(settings: dict[str, Any], key: str) -> str:
    node = settings.get(key)
    target = str(node.get("_target_", "")) if isinstance(node, dict) else ""
    return target.rpartition(".")[2] or "unknown"


def _format_date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def tabulate_results(numbers: StudyNumbers) -> ReportSection:
    """Return the best trials, and the figures."""
    summary = numbers.source.summary
    completed = [trial for trial in summary.trials if trial.status == "completed" and trial.values]
    ranked = sorted(completed, key=lambda trial: (trial.costs, trial.number))
    paused = sorted(
        (trial for trial in summary.trials if trial.status == "paused"),
        key=lambda trial: (-trial.percent_done, trial.costs, trial.number),
    )
    others = [*paused, *(trial for trial in summary.trials if trial.status in ("pruned", "diverged"))]
    shown = [*ranked, *others][:MAX_ROWS]
    if summary.baseline is not None and not any(is_same_trial(summary.baseline, trial) for trial in shown):
        shown = [*shown[: MAX_ROWS - 1], summary.baseline]
    blocks: list[Block] = []
    if shown:
        blocks.append(_tabulate_trials(numbers, shown, len(ranked) + len(others)))
    return ReportSection("results", "What was measured", (*blocks, *draw_figures(numbers)))


def _tabulate_trials(numbers: StudyNumbers, trials: list[TrialSummary], n_all: int) -> ReportTable:
    source = numbers.source
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    has_tokens = any(trial.tokens for trial in trials)
    others = source.summary.objectives[1:]
    front = {trial.number for trial in source.summary.best_trials} if others else set()
    header: list[Text] = [("trial",), ("status",), numbers.head, *((Name(objective_label(name)),) for name in others)]
    header += [("on the Pareto front",)] if others else []
    header += [(Code(key),) for key in keys]
    header += [("tokens",)] if has_tokens else []
    rows = []
    for trial in trials:
        row: list[Text] = [(name_trial(trial, source),), (trial.status,), cell_of(numbers.value_of(trial))]
        row += [cell_of(numbers.value_of(trial, index + 1)) for index in range(len(others))]
        row += [("yes" if trial.number in front else "no",)] if others else []
        row += [(Code(format_param(trial.params[key])),) if key in trial.params else DASH for key in keys]
        row += [cell_of(numbers.tokens_of(trial))] if has_tokens else []
        rows.append((*row, cell_of(numbers.seconds_of(trial))))
    first: Text = (" in the order of ", Name(source.label)) if others else (" best first",)
    caption: Text = ("One run each,", *first, "; the value of a pruned or paused trial is that at its end.")
    if n_all > len(trials):
        listed = numbers.read_study("study.listed", len(trials), "trials in the table")
        total = numbers.read_study("study.with_result", n_all, "trials that were measured")
        caption = (*caption, " The table has ", listed, " of ", total, " trials.")
    return ReportTable((*header, ("time",)), tuple(rows), caption)


def summarize_selection(numbers: StudyNumbers) -> list[Text]:
    """Return what the sweep alone shows of its best trial: a difference of single runs, and what it was chosen from."""
    source, summary = numbers.source, numbers.source.summary
    best, baseline = summary.best_trial, summary.baseline
    if len(summary.objectives) > 1:
        front = numbers.read_study("study.front", len(summary.best_trials), "trials on the Pareto front")
        return [("The sweep has several objectives, so it has no single best trial; its Pareto front has ", front, ".")]
    if best is None:
        return [("No trial completed, so nothing was measured that could be compared.",)]
    extreme = "highest" if source.direction == "maximize" else "lowest"
    if is_same_trial(best, baseline):
        value = numbers.value_of(best)
        side = "higher" if source.direction == "maximize" else "lower"
        return [(f"No trial has a {side} ", Name(source.label), " than the baseline, the configuration before the "
                 "sweep: ", value, ", of ", numbers.n_measured, " measured trials.")]  # fmt: skip
    first: Text = (
        "Trial ", Name(str(best.number)), f" has the {extreme} ", Name(source.label), " of ", numbers.n_measured,
        " measured trials: ", numbers.value_of(best), ".",
    )  # fmt: skip
    if baseline is None or baseline.status != "completed":
        what = "there is no trial of it" if baseline is None else f"its trial is {baseline.status}"
        return [first, (f"It cannot be compared with the baseline, the configuration before the sweep, since {what}.",)]
    spans = spell_difference(numbers.book, "best", numbers.value_of(baseline), numbers.value_of(best))
    runs, before = numbers.n_runs_of(best), numbers.n_runs_of(baseline)
    errors = [numbers.error_of(trial) for trial in (best, baseline)]
    return [
        (*first[:-1], ", against ", numbers.value_of(baseline), " of the baseline, the configuration before the sweep: "
         "a difference of ", *spans, "."),
        *_describe_errors([error for error in errors if error is not None]),
        ("Number of runs behind it: n = ", runs, " of trial ", Name(str(best.number)), ", n = ", before,
         " of the baseline. The best of ", numbers.n_measured,
         " trials is chosen partly for its luck: on other seeds the difference is expected to be smaller."),
    ]  # fmt: skip


def _describe_errors(errors: list[Number]) -> list[Text]:
    if len(errors) < 2:
        return []
    return [("Standard error over the elements of the validation set: ", errors[0], " of the best trial, ", errors[1],
             " of the baseline. It says how well one model was measured, and nothing about other seeds.")]  # fmt: skip
