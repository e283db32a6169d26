"""The report on a confirmation of configurations that no sweep chose: its folder is a study of its own."""

from pathlib import Path
from typing import Any

from harness import importers
from harness.diagnosis.history import History
from harness.evidence.confirm.result import CONFIRM_FILE
from harness.evidence.report.changes import compare_configs
from harness.evidence.report.confirmed import describe_verdict, report_confirmation
from harness.evidence.report.confirmed_values import Confirmed
from harness.evidence.report.cost import report_cost
from harness.evidence.report.diagnosed import NamedRun, report_diagnoses, score_expectations
from harness.evidence.report.document import Code, CommandLines, Name, Paragraph, Report, ReportSection, Text
from harness.evidence.report.failures import report_failures
from harness.evidence.report.lexicon import check_document
from harness.evidence.report.limits import make_limits
from harness.evidence.report.numbers import NumberBook
from harness.evidence.report.phrases import join_spans
from harness.evidence.report.study_report import describe_sources
from harness.evidence.report.study_source import read_result_file
from harness.record.trial_record import OWN_OBJECTIVE


def is_confirmation_folder(folder: Path) -> bool:
    """Return whether a folder is that of a confirmation, and not of the sweep that it confirms."""
    return (folder / CONFIRM_FILE).is_file()


def make_confirmation_report(folder: Path, price: float | None, inputs: dict[str, Any]) -> Report:
    """Return the report on the confirmation in `folder`.

    Raises:
        ConfigError: If its file is damaged, or a verdict is not what its runs give.
    """
    content = read_result_file(folder / CONFIRM_FILE)
    assert content is not None
    book, runs = NumberBook(), _load_first_runs(folder, content)
    units = {run.history.facts.unit for run in runs} if content["objective"] == OWN_OBJECTIVE else set()
    unit = (units.pop() if len(units) == 1 else None) or ""
    confirmed = Confirmed(content, str(content["study"]), unit, book)
    verdicts = [describe_verdict(confirmed, verdict) for verdict in confirmed.verdicts]
    first: list[Text] = verdicts or [("Nothing was confirmed: no configuration has a verdict.",)]
    sections = [
        ReportSection("summary", "Summary", tuple(Paragraph(text, is_verdict=True) for text in first)),
        _describe_request(confirmed),
        *_compare_runs(book, confirmed, runs),
        report_confirmation(confirmed),
        report_failures(None, [(confirmed, "the confirmation")]),
        report_diagnoses(book, runs, None),
        score_expectations(book, runs),
        report_cost(book, [confirmed.list_cost("the confirmation")], price),
        make_limits(_list_limits(confirmed)),
        describe_sources(runs),
    ]
    report = Report(f"Report on the confirmation {folder.name}", tuple(sections), book.numbers, inputs)
    check_document(report)
    return report


def _load_first_runs(folder: Path, content: dict[str, Any]) -> list[NamedRun]:
    """Return the run of each configuration on the first seed, as far as its record can be read."""
    found = []
    for config in content["configs"]:
        run = next((run for run in config["runs"] if run["seed"] == content["seeds"][0]), None)
        history = _read_history(folder / str(run["folder"])) if run else None
        if run and history is not None:
            found.append(NamedRun(str(config["name"]), f"{folder.name}/{run['trial']}", history))
    return found


def _read_history(folder: Path) -> History | None:
    try:
        return importers.read_history(folder)
    except (ValueError, OSError):
        return None


def _describe_request(confirmed: Confirmed) -> ReportSection:
    names = join_spans(Name(name) for name in confirmed.configs)
    words: Text = ("Configurations on the same fresh seeds: ", *names, ". Objective: ",
                   f"{'maximize' if confirmed.is_maximized else 'minimize'} ", Code(confirmed.objective),
                   "; the claim is about ", Code(confirmed.metric), f" on the {confirmed.split} split.")  # fmt: skip
    commands = tuple(str(config["command"]) for config in confirmed.configs.values() if config.get("command"))
    blocks = (Paragraph(words), *((CommandLines(commands),) if commands else ()))
    return ReportSection("asked", "What was asked", blocks)


def _compare_runs(book: NumberBook, confirmed: Confirmed, runs: list[NamedRun]) -> list[ReportSection]:
    if len(runs) < 2 or runs[0].name != next(iter(confirmed.configs)):
        return []
    names, histories = [run.name for run in runs], [run.history for run in runs]
    return [compare_configs(book, names, histories, [""] * len(names), "the program's own")]


def _list_limits(confirmed: Confirmed) -> list[Text]:
    items: list[Text] = []
    open_ones = [str(verdict["candidate"]) for verdict in confirmed.verdicts if verdict["status"] == "not shown"]
    if open_ones:
        names = join_spans(map(Name, open_ones))
        items.append(("That ", *names, " and the baseline are the same: a difference smaller than what these seeds can "
                      "show may exist."))  # fmt: skip
    changed = [config["values"] for config in list(confirmed.configs.values())[1:]]
    before = next(iter(confirmed.configs.values()))["values"]
    if any(sum(before.get(key) != value for key, value in values.items()) > 1 for values in changed):
        items.append(("Which of the settings that changed together carries a difference: none was changed alone.",))
    items.append(("Anything about measures other than ", Code(confirmed.metric), ", other data, longer training, or a "
                  "model of another size."))  # fmt: skip
    return items
