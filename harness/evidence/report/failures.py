"""The section on what failed: trials of a sweep and runs on fresh seeds, by their reasons."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.evidence.report.document import Block, BulletList, Name, Paragraph, Quote, ReportSection, Span, Text
from harness.evidence.report.numbers import Reading
from harness.evidence.report.seed_values import SeedValues
from harness.evidence.report.study_numbers import StudyNumbers

BAD = ("failed", "diverged", "interrupted")
MAX_NAMED = 12
NO_REASON = "no reason was recorded"


def report_failures(numbers: StudyNumbers | None, fresh: Sequence[tuple[SeedValues, str]]) -> ReportSection:
    """Return the number of trials by status, and the reasons of trials and runs on fresh seeds that failed or diverged.

    `fresh` are runs on fresh seeds and their name, such as "the confirmation"; `numbers` is None without a sweep.
    """
    blocks: list[Block] = [Paragraph(_count_statuses(numbers))] if numbers else []
    items = _list_bad_trials(numbers) if numbers else []
    if numbers and not items:
        blocks.append(Paragraph((f"No trial{' of the sweep' if fresh else ''} failed or diverged.",)))
    for values, name in fresh:
        found = _list_bad_runs(values, name)
        if found:
            items += found
        else:
            blocks.append(Paragraph((f"No run of {name} failed or diverged.",)))
    return ReportSection("failed", "What failed", (*blocks, *([BulletList(tuple(items))] if items else ())))


def _count_statuses(numbers: StudyNumbers) -> Text:
    counts: list[Span] = []
    for status, count in numbers.source.summary.counts.items():
        if count:
            number = numbers.read_study(f"study.{status}", count, f"trials that are {status}")
            counts += [", " if counts else "Trials: ", number, f" {status}"]
    return (*counts, ".")


def _list_bad_trials(numbers: StudyNumbers) -> list[Text]:
    source, by_reason = numbers.source, dict[str, list[str]]()
    for trial in source.summary.trials:
        if trial.status in BAD:
            by_reason.setdefault(trial.reason, []).append(str(trial.number))
    place, items = f"reasons of the trials of study {source.name}", list[Text]()
    for index, (reason, trials) in enumerate(by_reason.items()):
        reading = Reading(place, reason or NO_REASON)
        number = numbers.book.read(f"failure.n{index}", len(trials), "", reading, "whole")
        words = " trial (" if len(trials) == 1 else " trials ("
        items.append((number, words, _name_some(trials), "): ", Quote(reason or NO_REASON, place), "."))
    return items


def _list_bad_runs(values: SeedValues, name: str) -> list[Text]:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for config in values.configs.values():
        for run in config["runs"]:
            if run["status"] in BAD:
                by_reason.setdefault(_describe_end(run), []).append(f"{config['name']} with seed {run['seed']}")
    items: list[Text] = []
    for index, ((status, reason), runs) in enumerate(by_reason.items()):
        what = f"runs that {status}: {reason}"
        number = values.read(f"{values.folder}.failure.n{index}", len(runs), what, style="whole")
        words = f" run of {name} {status} (" if len(runs) == 1 else f" runs of {name} {status} ("
        items.append((number, words, _name_some(runs), "): ", Quote(reason, values.place), "."))
    return items


def _describe_end(run: Mapping[str, Any]) -> tuple[str, str]:
    return str(run["status"]), str(run.get("reason") or NO_REASON)


def _name_some(names: Sequence[str]) -> Name:
    return Name(", ".join(names[:MAX_NAMED]) + ", …" * (len(names) > MAX_NAMED))
