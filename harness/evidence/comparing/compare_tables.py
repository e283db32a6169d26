"""The comparison of runs as tables and sentences, which are then written as text, markdown or HTML."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from harness.core.formatting import format_count, format_duration
from harness.diagnosis.history import History
from harness.evidence.comparing.paired_losses import CONFIDENCE
from harness.evidence.comparing.reached_losses import ReachedLoss, Span
from harness.evidence.comparing.run_comparison import Comparison, LossDifference, LossPoint, RunSummary
from harness.evidence.comparing.setting_differences import SHARED_FACTS, Kind

UNKNOWN = "–"
MAX_VALUE = 28  # characters of a setting in a table; --json has all
TABLES: tuple[tuple[str, tuple[Kind, ...]], ...] = (
    ("Settings that differ", ("setting", "seed")),
    ("Settings in effect that differ", ("in effect",)),
    ("Code and environment that differ", ("code", "environment")),
)


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows; in one of runs, each other column is a run."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_of_runs: bool = True


@dataclass(frozen=True)
class Section:
    """A titled part of the document: a table, sentences, or both."""

    title: str
    table: Table | None = None
    sentences: tuple[str, ...] = ()


def make_sections(comparison: Comparison) -> list[Section]:
    """Return the document of a comparison, in the order in which it is read."""
    sections = [_list_runs(comparison), _state_comparability(comparison), _tabulate_losses(comparison)]
    if comparison.differences:
        sections.append(_tabulate_differences(comparison))
    if comparison.reached:
        sections.append(_tabulate_reached(comparison))
    sections += _tabulate_settings(comparison)
    limits = (*comparison.changes, *(f"{note[0].upper()}{note[1:]}." for note in comparison.notes))
    return [*sections, Section("What this shows", sentences=limits)]


def to_one_line(text: object) -> str:
    """Return a text of a log or a store in one line, without characters that control a terminal."""
    return re.sub(r"\s+", " ", "".join(char if char.isprintable() else " " for char in str(text))).strip()


def format_loss(value: float) -> str:
    """Return five significant digits."""
    return f"{value:#.5g}".rstrip(".") if math.isfinite(value) else "not finite"


def _list_runs(comparison: Comparison) -> Section:
    rows = tuple((run.label, to_one_line(run.name), run.status or UNKNOWN) for run in comparison.runs)
    sources = tuple(f"{run.label}: {to_one_line(run.source)}" for run in comparison.runs)
    return Section("Runs", Table(("", "name", "status"), rows, is_of_runs=False), sources)


def _state_comparability(comparison: Comparison) -> Section:
    found = comparison.comparability
    reasons = tuple(to_one_line(reason) for reason in found.reasons)
    match found.verdict:
        case "comparable":
            first = f"{str(found).partition(': ')[2]}, so the validation losses can be ranked."
            return Section("Comparable", sentences=(first[0].upper() + first[1:],))
        case "not comparable":
            refusal = "The validation losses are not ranked, since they do not measure the same thing."
            return Section("Not comparable", sentences=(*reasons, refusal))
    caution = "What follows holds only if all were validated on the same data, in the same unit."
    return Section("Cannot tell whether comparable", sentences=(*reasons, caution))


def _tabulate_losses(comparison: Comparison) -> Section:
    runs = comparison.runs
    rows = [
        ("best validation loss", [_format_point(run.best) for run in runs]),
        ("  at", [run.best.when if run.best else "" for run in runs]),
        ("  ± standard error", [_format_error(run.best) for run in runs]),
        ("last validation loss", [_format_point(run.final) for run in runs]),
        ("  at", [run.final.when if run.final else "" for run in runs]),
        ("  ± standard error", [_format_error(run.final) for run in runs]),
        ("unit", [run.unit or "unknown" if run.evaluations else "" for run in runs]),
        ("scored share of validation", [_format_known(run.coverage, lambda share: f"{share:.4g}") for run in runs]),
        ("evaluations", [str(run.evaluations) for run in runs]),
        ("train loss, last tenth", [_format_known(run.train_loss, format_loss) for run in runs]),
        *((f"objective {name}", [_format_known(run.objectives.get(name), format_loss) for run in runs])
          for name in dict.fromkeys(name for run in runs for name in run.objectives)),
        ("length", [run.length for run in runs]),
        ("tokens", [_format_known(run.tokens, format_count) for run in runs]),
        ("time", [_format_known(run.seconds, format_duration) for run in runs]),
        ("parameters", [_format_known(run.parameters, format_count) for run in runs]),
        ("  trained", [_format_known(run.trainable_parameters, format_count) for run in runs]),
    ]  # fmt: skip
    known = [(name, *values) for name, values in rows if any(value not in ("", UNKNOWN) for value in values)]
    return Section("Losses and cost", Table(("", *(run.label for run in runs)), tuple(known)))


def _tabulate_differences(comparison: Comparison) -> Section:
    header = ("", "difference", "relative", "± unpaired", f"paired, {CONFIDENCE:.0%} interval", "is")
    rows = tuple(_format_difference(one) for one in comparison.differences)
    sentences = ["Relative: over the loss of A. Unpaired: the root of the sum of the squared standard errors."]
    if any(one.paired for one in comparison.differences):
        sentences.append(
            "Paired: on the same validation examples, taken as independent. The interval is that of these two models "
            "on other examples, not of other seeds."
        )
    return Section("Differences of the validation loss", Table(header, rows, is_of_runs=False), tuple(sentences))


def _format_difference(one: LossDifference) -> tuple[str, ...]:
    paired = UNKNOWN
    if one.paired:
        found = one.paired
        paired = f"{found.difference:+.3g} [{found.low:+.3g}, {found.high:+.3g}], n = {found.n:,}"
    return (
        f"{one.second} − {one.first}, {'best' if one.at == 'best' else 'last'}",
        f"{one.difference:+.4g}",
        _format_known(one.relative, lambda share: f"{share:+.2%}"),
        _format_known(one.standard_error, lambda error: f"{error:.2g}"),
        paired,
        one.direction,
    )


def _tabulate_reached(comparison: Comparison) -> Section:
    runs, rows = comparison.runs, []
    units = {history.facts.steps_unit for history in comparison.histories}
    steps_name = next(iter(units)) if len(units) == 1 else "steps or epochs"
    has_tokens = all(run.tokens is not None for run in runs if run.evaluations)
    for threshold in comparison.reached:
        reached = list(zip(runs, comparison.histories, threshold.runs, strict=True))
        name = f"≤ {threshold.loss:.6g}"
        if has_tokens:
            cells = [_format_reached(run, found, found.tokens, format_count, format_count(run.tokens or 0))
                     for run, _, found in reached]  # fmt: skip
            rows.append((f"{name}, tokens", *cells))
        cells = [_format_reached(run, found, found.steps, partial(_number_of_step, history),
                                 run.length.partition(" ")[2]) for run, history, found in reached]  # fmt: skip
        rows.append((f"{name}, {steps_name}", *cells))
        if any(found.seconds for found in threshold.runs):
            cells = [_format_reached(run, found, found.seconds, format_duration, "") for run, _, found in reached]
            rows.append((f"{name}, time", *cells))
    grid = "A span lies between two evaluations: the loss was reached after the first and by the second."
    table = Table(("", *(run.label for run in runs)), tuple(rows))
    return Section("Tokens, steps and time to reach a validation loss", table, (grid,))


def _number_of_step(history: History, step: float) -> str:
    return history.describe_step(step).partition(" ")[2]


def _format_reached(
    run: RunSummary, found: ReachedLoss, span: Span | None, format_value: Callable[[float], str], end: str
) -> str:
    if not run.evaluations:
        return UNKNOWN
    if found.steps is None:
        return f"never (to {end})" if end else "never"
    if span is None:
        return UNKNOWN
    by = format_value(span.by)
    return f"by {by}" if span.after is None else f"{format_value(span.after)} to {by}"


def _tabulate_settings(comparison: Comparison) -> Iterator[Section]:
    header = ("", *(run.label for run in comparison.runs))
    for title, kinds in TABLES:
        found = sorted(comparison.settings.of_kind(*kinds), key=lambda one: kinds.index(one.kind))
        rows = tuple((to_one_line(one.key), *shorten_values(one.values)) for one in found)
        sentences: tuple[str, ...] = ()
        if "setting" in kinds:
            sentences = _note_settings(comparison)
        if rows or sentences:
            yield Section(title, Table(header, rows) if rows else None, sentences)


def _note_settings(comparison: Comparison) -> tuple[str, ...]:
    settings, labels = comparison.settings, [run.label for run in comparison.runs]
    notes = []
    if settings.unknown:
        notes.append(f"Not recorded: the settings of {', '.join(labels[index] for index in settings.unknown)}.")
    if not settings.of_kind("setting", "seed") and len(settings.unknown) < len(labels) - 1:
        notes.append("No recorded setting differs.")
    if settings.left_out:
        keys = ", ".join(map(to_one_line, settings.left_out))
        notes.append(f"Left out, since they only name or record a run: {keys}.")
    if settings.by_facts and len(settings.unknown) < len(labels):
        notes.append(f"The runs name their settings differently; compared were {', '.join(SHARED_FACTS)}.")
    return tuple(notes)


def shorten_values(values: Sequence[str | None]) -> list[str]:
    """Return the values of a setting for a table: without a long beginning that all share, and cut in the middle."""
    texts = [None if value is None else to_one_line(value) for value in values]
    known = [text for text in texts if text is not None]
    shared = 0
    if len(set(known)) > 1 and max(map(len, known)) > MAX_VALUE:
        while all(len(text) > shared and text[shared] == known[0][shared] for text in known):
            shared += 1
        shared = max((match.end() for match in re.finditer(r"[/.\s,:_-]", known[0][:shared])), default=0)
    cut = [None if text is None else f"…{text[shared:]}" if shared else text for text in texts]
    return [UNKNOWN if text is None else _cut_middle(text) or "''" for text in cut]


def _cut_middle(text: str) -> str:
    if len(text) <= MAX_VALUE:
        return text
    side = (MAX_VALUE - 1) // 2
    return f"{text[:side]}…{text[-side:]}"


def _format_point(point: LossPoint | None) -> str:
    return format_loss(point.value) if point else UNKNOWN


def _format_error(point: LossPoint | None) -> str:
    return f"{point.standard_error:.2g}" if point and point.standard_error is not None else ""


def _format_known(value: float | None, format_value: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else format_value(value)
