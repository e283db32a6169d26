"""The report on a study."""

from collections.abc import Sequence
from typing import Any

from harness.evidence.report.ablated import describe_gain, report_ablation, summarize_ablation
from harness.evidence.report.ablated_values import Ablated
from harness.evidence.report.changes import compare_configs
from harness.evidence.report.confirmed import (
    describe_verdict,
    format_confirm_command,
    report_confirmation,
)
from harness.evidence.report.confirmed_values import Confirmed
from harness.evidence.report.cost import CostItem, report_cost
from harness.evidence.report.diagnosed import NamedRun, report_diagnoses, score_expectations
from harness.evidence.report.document import (
    Block,
    BulletList,
    Code,
    CommandLines,
    Name,
    Paragraph,
    Report,
    ReportSection,
    Text,
)
from harness.evidence.report.failures import report_failures
from harness.evidence.report.lexicon import check_document
from harness.evidence.report.limits import list_study_limits
from harness.evidence.report.phrases import join_spans
from harness.evidence.report.reached import tabulate_reached
from harness.evidence.report.seed_values import SeedValues
from harness.evidence.report.study_numbers import StudyNumbers, is_same_trial, name_trial
from harness.evidence.report.study_sections import (
    describe_request,
    summarize_selection,
    tabulate_results,
)
from harness.evidence.report.study_source import StudySource
from harness.sweep.results.summary import TrialSummary

CHECK_COMMAND = "plateau report --check FOLDER"
TRAINING = "training"


def make_study_report(source: StudySource, price: float | None, inputs: dict[str, Any]) -> Report:
    """Return the report on a study; `inputs` is what it was asked for."""
    numbers = StudyNumbers(source, price)
    confirmed = None if source.confirmation is None else Confirmed(
        source.confirmation, source.name, source.unit, numbers.book, source.rerun_options
    )  # fmt: skip
    ablated = None if source.ablation is None else Ablated(
        source.ablation, source.name, source.unit, numbers.book, source.rerun_options
    )  # fmt: skip
    runs = _load_runs(source)
    command = format_confirm_command(source.name, source.rerun_options) if _has_candidate(source) else ""
    confirmation = report_confirmation(confirmed, command, _is_taken_apart(source, ablated))
    request, results = describe_request(numbers), tabulate_results(numbers)
    preflight = source.preflight if source.program == TRAINING else None
    fresh: list[tuple[SeedValues, str]] = [(confirmed, "the confirmation")] if confirmed else []
    fresh += [(ablated, "the ablation")] if ablated else []
    cost = report_cost(numbers.book, _list_costs(source, fresh), price)
    sections = [
        _summarize(numbers, confirmed, ablated),
        request,
        *_compare_best(numbers, runs, _is_taken_apart(source, ablated)),
        results,
        confirmation,
        *([report_ablation(ablated)] if ablated else []),
        *([tabulate_reached(numbers.book, runs, source.unit)] if _have_losses(source, runs) else []),
        report_failures(numbers, fresh),
        report_diagnoses(numbers.book, runs, preflight),
        score_expectations(numbers.book, runs),
        cost,
        list_study_limits(numbers, confirmed, ablated),
        describe_sources(runs),
    ]
    report = Report(f"Report on the sweep {source.name}", tuple(sections), numbers.book.numbers, inputs)
    check_document(report)
    return report


def _summarize(numbers: StudyNumbers, confirmed: Confirmed | None, ablated: Ablated | None) -> ReportSection:
    selection = summarize_selection(numbers)
    verdicts = [describe_verdict(confirmed, verdict) for verdict in confirmed.verdicts] if confirmed else []
    if not verdicts and ablated and _is_taken_apart(numbers.source, ablated):
        verdicts = [describe_gain(ablated)]
    effects = [Paragraph(summarize_ablation(ablated))] if ablated else []
    if verdicts:
        first = [Paragraph(text, is_verdict=True) for text in verdicts]
        return ReportSection("summary", "Summary", (*first, *effects, *map(Paragraph, selection)))
    head: Text = ("Nothing was confirmed. ", *selection[0]) if _has_candidate(numbers.source) else selection[0]
    blocks: list[Block] = [Paragraph(head, is_verdict=True), *map(Paragraph, selection[1:]), *effects]
    command = format_confirm_command(numbers.source.name, numbers.source.rerun_options)
    if command and _has_candidate(numbers.source):
        blocks.append(Paragraph(("Whether the difference holds on fresh seeds: ", Code(command), ".")))
    return ReportSection("summary", "Summary", tuple(blocks))


def _has_candidate(source: StudySource) -> bool:
    """Return whether a trial other than the baseline could be confirmed."""
    best = source.summary.best_trials
    return bool(best) and not is_same_trial(best[0], source.summary.baseline)


def _is_taken_apart(source: StudySource, ablated: Ablated | None) -> bool:
    """Return whether an ablation has compared the best trial with the baseline."""
    best = source.summary.best_trial
    return ablated is not None and best is not None and ablated.has_measured(best.number)


def _load_runs(source: StudySource) -> list[NamedRun]:
    """Return the baseline and the best trial, as far as their records can be read."""
    summary = source.summary
    trials = [trial for trial in (summary.baseline, summary.best_trial) if trial]
    distinct = {trial.number: trial for trial in trials}.values()
    found = ((trial, source.read_history(trial)) for trial in distinct)
    return [_name_run(source, trial, history) for trial, history in found if history is not None]


def _name_run(source: StudySource, trial: TrialSummary, history: Any) -> NamedRun:
    return NamedRun(name_trial(trial, source).text, source.name_place(trial), history)


def _have_losses(source: StudySource, runs: list[NamedRun]) -> bool:
    return len(runs) == 2 and source.direction == "minimize" and all(len(run.history["val/loss"]) for run in runs)


def _compare_best(numbers: StudyNumbers, runs: list[NamedRun], is_taken_apart: bool) -> list[ReportSection]:
    source = numbers.source
    if len(runs) < 2:
        trial = source.summary.best_trial or source.summary.baseline
        command = source.read_command(trial) if trial else ""
        if not command:
            return []
        words: Text = ("There is one configuration to show, ", Name(runs[0].name if runs else "the best trial"), ":")
        blocks = (Paragraph(words), CommandLines((command,)))
        return [ReportSection("configs", "Configurations before and after", blocks)]
    trials = [trial for trial in (source.summary.baseline, source.summary.best_trial) if trial]
    commands = [source.read_command(trial) for trial in trials]
    names, histories = [run.name for run in runs], [run.history for run in runs]
    return [compare_configs(numbers.book, names, histories, commands, "the program's own", is_taken_apart)]


def _list_costs(source: StudySource, fresh: Sequence[tuple[SeedValues, str]]) -> list[CostItem]:
    """Return the cost of the sweep and of the runs on fresh seeds."""
    summary = source.summary
    over = [trial for trial in summary.trials if trial.is_over]
    untimed = sum(not trial.seconds for trial in over)
    place, seconds = f"study {source.name}", summary.seconds or None
    sweep = CostItem("the sweep", place, len(over), summary.tokens or None, seconds, untimed)
    return [sweep, *(values.list_cost(name) for values, name in fresh)]


def describe_sources(runs: Sequence[NamedRun]) -> ReportSection:
    """Return how the numbers can be checked, and which code and machine ran."""
    words: Text = (
        "Every number has its source in ", Code("report.json"), ": the run or file, the metric and the step that it "
        "was read from, or the formula over other numbers. Differences and percentages are computed from unrounded "
        "values. This command computes all of them again from the sources, and fails on any difference:",
    )  # fmt: skip
    items = [item for run in runs[:1] for item in _describe_provenance(run)]
    blocks: list[Block] = [
        Paragraph(words),
        CommandLines((CHECK_COMMAND,)),
        *([BulletList(tuple(items))] if items else []),
    ]
    return ReportSection("sources", "Where the numbers come from", tuple(blocks))


def _describe_provenance(run: NamedRun) -> list[Text]:
    """Return the code and the machine of a run, as far as it recorded them."""
    known = run.history.facts.provenance or {}
    items: list[Text] = []
    if "git.commit" in known:
        dirty = ", with changes that were not committed" if known.get("git.is_dirty") == "true" else ""
        items.append(("Code of ", Name(run.name), ": commit ", Code(known["git.commit"]), f"{dirty}."))
    versions = {name.removeprefix("version."): value for name, value in known.items() if name.startswith("version.")}
    versions |= {name: known[name] for name in ("python", "device") if name in known}
    if versions and "device" in known:  # a program of others records neither its device nor which packages it uses
        items.append(("Ran with: ", *join_spans(Code(f"{name} {value}") for name, value in versions.items()), "."))
    return items
