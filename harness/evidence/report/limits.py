"""Limits of a report: what it does not show, stated so that nobody reads it into the numbers."""

from collections.abc import Iterator, Sequence

from harness.evidence.report.ablated import format_ablate_command
from harness.evidence.report.ablated_values import Ablated
from harness.evidence.report.confirmed_values import Confirmed
from harness.evidence.report.document import BulletList, Code, Name, Paragraph, ReportSection, Span, Text
from harness.evidence.report.numbers import Reading
from harness.evidence.report.phrases import join_spans, make_id
from harness.evidence.report.study_numbers import StudyNumbers, is_same_trial
from harness.sweep.results.formatting import format_param

TITLE = "What was not shown"


def list_study_limits(numbers: StudyNumbers, confirmed: Confirmed | None, ablated: Ablated | None) -> ReportSection:
    """Return what neither the sweep nor its confirmation and ablation show."""
    items = [
        *_limit_confirmation(numbers, confirmed, ablated),
        *(_limit_ablation(ablated) if ablated else ()),
        *_limit_search(numbers),
        *_limit_scope(numbers, [one.metric for one in (confirmed, ablated) if one]),
    ]
    return make_limits(items)


def make_limits(items: list[Text]) -> ReportSection:
    first = Paragraph(("None of the following follows from this report:",))
    return ReportSection("limits", TITLE, (first, BulletList(tuple(items))))


def _limit_confirmation(numbers: StudyNumbers, confirmed: Confirmed | None, ablated: Ablated | None) -> Iterator[Text]:
    source, best = numbers.source, numbers.source.summary.best_trial
    chosen = best is not None and not is_same_trial(best, source.summary.baseline)
    verdicts = confirmed.verdicts if confirmed else []
    is_taken_apart = ablated is not None and best is not None and ablated.has_measured(best.number)
    if not verdicts and chosen and not is_taken_apart:
        yield ("That the difference is more than the noise of seeds: no configuration has a verdict on fresh seeds.",)
    fresh = [one for one in (confirmed, ablated) if one is not None]
    if fresh and not any(one.split == "test" for one in fresh):
        yield ("That it holds on data that no sweep has seen: the runs on fresh seeds were scored on the ",
               Name(fresh[0].split), " split, which the sweep chose its trials by.")  # fmt: skip
    open_ones = [str(verdict["candidate"]) for verdict in verdicts if verdict["status"] == "not shown"]
    if open_ones:
        yield ("That ", *join_spans(map(Name, open_ones)), " and the baseline are the same: a difference smaller than "
               "what these seeds can show may exist.")  # fmt: skip
    has_changes = chosen and source.summary.baseline is not None and _count_changes(numbers) > 1
    if has_changes and not is_taken_apart:
        command = Code(format_ablate_command(source.name, source.rerun_options))
        does: Text = ("; ", command, " does") if source.rerun_options is not None else ()
        yield ("Which of the settings that changed together carries the difference: none was changed alone", *does, ".")


def _limit_ablation(ablated: Ablated) -> Iterator[Text]:
    effects = ablated.list_measured()
    if any(effect["status"] == "not shown" for effect in effects):
        yield ("That a change without a shown effect has none: an effect smaller than what these seeds can show may "
               "exist.",)  # fmt: skip
    if any(effect["share"] is not None for effect in effects if effect["kind"] != "gain"):
        yield ("That the shares of the changes add up to the whole: changes interact.",)
    joint = [change.name for change in ablated.plan.changes if len(change.keys) > 1]
    if joint and effects:
        yield ("Which of the settings that are one change carries its effect: ", *join_spans(map(Name, joint)), ".")


def _count_changes(numbers: StudyNumbers) -> int:
    """Return how many searched settings of the best trial are not known to be those of the baseline."""
    before, after = (trial.params if trial else {} for trial in
                     (numbers.source.summary.baseline, numbers.source.summary.best_trial))  # fmt: skip
    return sum(before.get(key) != value for key, value in after.items())


def _limit_search(numbers: StudyNumbers) -> Iterator[Text]:
    source, summary = numbers.source, numbers.source.summary
    for hit in summary.boundary_hits:
        condition: tuple[Span, ...] = (" with ", Code(hit.condition)) if hit.condition else ()
        value, bound = Code(format_param(hit.value)), Code(format_param(hit.bound))
        yield ("Beyond the space: the best ", Code(hit.key), *condition, " is ", value, ", near the bound ", bound, ".")
    for status, words in (
        ("paused", "What the paused trials would have reached: "),
        ("pruned", "What the pruned trials would have reached: "),
        ("failed", "What the failed trials would have measured: "),
        ("interrupted", "What the interrupted trials would have measured: "),
    ):
        count = summary.counts[status]  # type: ignore[index]
        if count:
            number = numbers.read_study(f"study.{status}", count, f"trials that are {status}")
            ended = "stopped early" if status == "pruned" else status
            yield (words, number, f" of them {ended}.")
    if source.summary.counts["running"] or source.summary.counts["queued"]:
        yield ("The end of the sweep: trials are still queued or running.",)


def _limit_scope(numbers: StudyNumbers, metrics: Sequence[str]) -> Iterator[Text]:
    source, best = numbers.source, numbers.source.summary.best_trial
    measures = dict.fromkeys([*source.summary.objectives, *metrics])
    yield ("Anything about measures other than ", *join_spans(map(Code, measures)),
           ", other data, or a model of another size.")  # fmt: skip
    length = source.read_curve(best) if best else None
    if best and length:
        reading = Reading(source.name_place(best), "last step")
        steps = numbers.book.read(make_id(f"trial {best.number}", "last step"), length.steps[-1], "", reading, "whole")
        yield ("That the order of configurations stays the same in longer training: the best trial ended at step ",
               steps, ".")  # fmt: skip
