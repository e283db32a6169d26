"""Runs of a tuning loop from the rows of a table: values, outcomes, and which rows repeat one configuration.

Two rows are runs of one configuration if
- the columns of settings given are equal; or else
- both descriptions say that they are the baseline and nothing else; or
- id and description are equal, without what numbers a repeat ("seed 3", "rerun 2"). Ids that only count the rows do not
  count where seeds or such numbers say that rows are repeats. Without descriptions, ids decide, and without both every
  row is a configuration of its own.
"""

import math
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from harness.core.errors import ConfigError
from harness.evidence.judging.run_log import LoggedRun, Outcome, RunLog
from harness.evidence.judging.table_columns import TableColumns
from harness.evidence.judging.table_reader import Row
from harness.importers.metric_aliases import split_words
from harness.importers.tables.cells import parse_cell

OUTCOME_WORDS: dict[Outcome, frozenset[str]] = {
    "crash": split_words("crash crashed fail failed failure error oom timeout killed abort aborted nan diverged "
                         "invalid broken infra exception cancelled skipped skip"),
    "baseline": split_words("baseline reference control"),
    "discard": split_words("discard discarded reject rejected revert reverted worse neutral no drop dropped"),
    "keep": split_words("keep kept best accept accepted adopted win won improved yes true merge merged"),
}  # fmt: skip
"""First words of a status, read in this order."""
PLACEHOLDERS = (999.0, 9999.0, 99999.0)
"""Absolute values that loops write in place of a missing one."""
REPEAT_MARKS = re.compile(
    r"(?<![a-z])(?:random[ _-]*)?seed[ _=:#-]*\d+\b|[_\-. ]s\d+$"
    r"|\b(?:run|rep|repeat|rerun|re-run|replicate)[ _=:#-]*\d+(?:\s*(?:/|of)\s*\d+)?\b"
    r"|\b(?:repeat(?:ed)?|rerun|re-run|replicate|again)\b|\(\s*#?\d+\s*\)|#\d+\b",
    re.IGNORECASE,
)
"""Parts of a description that only number a repeat."""
BASELINE_WORDS = split_words(
    "baseline base line run runs seed random repeat repeated rerun re replicate replica rep again no changes change "
    "unmodified unchanged untouched default original initial starting reference reproduction repro confirm "
    "confirmation noise floor measurement measure check variance of the for and as is with code train py first second "
    "third fourth fifth sixth exp experiment clean new a an same config"
)
SEED_CHANGE_WORDS = split_words(
    "seed seeds random rng torch manual numpy np cuda global initialization init from to change changed changing "
    "changes try tried trying different new another other lucky better best set use using the a of instead only just "
    "exp experiment run for and with pick picked search swap switch"
)


def build_run_log(rows: Sequence[Row], columns: TableColumns, path: Path, notes: Sequence[str] = ()) -> RunLog:
    """Return the runs of the table at `path`.

    Raises:
        ConfigError: If a metric is written as text throughout.
    """
    repeated = _find_repeated(rows, columns)
    values = [parse_cell(row.get(columns.metric, "")) for _, row in rows]
    if all(value is None for value in values):
        raise ConfigError(f"--metric: {columns.metric}: no row has a number in this column; name another one")
    others_positive = sum(value is not None and value > 0 for value in values) > 1
    runs = [
        _read_run(number, row, value, columns, repeated, others_positive)
        for (number, row), value in zip(rows, values, strict=True)
    ]
    return RunLog(
        source=str(path),
        metric=columns.metric,
        direction=columns.direction,
        runs=tuple(runs),
        notes=(*notes, *_note_missing_runs(runs), *_note_other_baselines(runs)),
        names_seeds=any(run.seed is not None for run in runs),
    )


def _read_run(
    number: int,
    row: Mapping[str, str],
    value: float | None,
    columns: TableColumns,
    repeated: Container[str],
    others_positive: bool,
) -> LoggedRun:
    status = row.get(columns.status or "", "")
    description = row.get(columns.description or "", "")
    outcome = read_outcome(status)
    is_baseline = (
        outcome == "baseline"
        or is_baseline_text(description)
        or is_baseline_text(row.get(columns.id or "", ""))
        or (number == 1 and description.lower().startswith("baseline"))
    )
    problem = _find_problem(row.get(columns.metric, ""), value, status, outcome, columns, others_positive)
    run_id = row.get(columns.id or "", "")
    return LoggedRun(
        number=number,
        name=_name_run(number, _shorten(run_id, 40), _shorten(description)),
        config=_make_config_key(number, row, columns, is_baseline, repeated),
        value=None if problem else value,
        problem=problem,
        seed=row.get(columns.seed or "") or None,
        outcome=outcome,
        is_baseline=is_baseline,
        description=description,
        cells=row,
    )  # fmt: skip


def _find_problem(
    cell: str, value: float | None, status: str, outcome: Outcome, columns: TableColumns, others_positive: bool
) -> str:
    """Return why a run has no value; an empty string if it has one."""
    if outcome == "crash":
        return f"it has the status {status}"
    if not cell.strip():
        return f"{columns.metric} is missing"
    if value is None or not math.isfinite(value):
        return f"{columns.metric} is {cell}"
    if abs(value) in PLACEHOLDERS or (value == 0 and columns.direction == "minimize" and others_positive):
        return f"{columns.metric} is {cell}, which stands for a run without a result"
    return ""


def _make_config_key(
    number: int, row: Mapping[str, str], columns: TableColumns, is_baseline: bool, repeated: Container[str]
) -> str:
    if columns.config:
        return " ".join(f"{name}={_normalize_cell(row.get(name, ''))}" for name in columns.config)
    if is_baseline:
        return "baseline"
    description = strip_repeat_marks(row.get(columns.description or "", ""))
    run_id = "" if description in repeated else row.get(columns.id or "", "")
    if not description:
        run_id = strip_repeat_marks(run_id) or run_id
    key = " | ".join(filter(None, (run_id, description)))
    return key or f"row {number}"


def _find_repeated(rows: Sequence[Row], columns: TableColumns) -> set[str]:
    """Return the descriptions of which some row says that it is a repeat, if ids only count the rows."""
    if (
        columns.id is None
        or columns.description is None
        or not _only_counts([row.get(columns.id, "") for _, row in rows])
    ):
        return set()
    found = set()
    for _, row in rows:
        text = row.get(columns.description, "")
        is_marked = strip_repeat_marks(text) != _squeeze(text) or row.get(columns.seed or "", "")
        found |= {strip_repeat_marks(text)} if text and is_marked else set()
    return found


def strip_repeat_marks(text: str) -> str:
    """Return a description without what numbers a repeat; the text itself if nothing else is left."""
    return _squeeze(REPEAT_MARKS.sub(" ", text)) or text.strip().casefold()


def _squeeze(text: str) -> str:
    return re.sub(r"[\s,;:()\-_]+", " ", text).strip().casefold()


def _name_run(number: int, run_id: str, description: str) -> str:
    return f"{run_id} ({description})" if run_id and description else run_id or description or f"row {number}"


def is_baseline_text(text: str) -> bool:
    """Return whether a text says that a run is the baseline, and nothing else."""
    words = re.findall(r"[a-z]+", re.sub(r"\([^)]*\)|\[[^]]*\]", " ", text.lower()))
    return "baseline" in words and set(words) <= BASELINE_WORDS


def is_seed_change_text(text: str) -> bool:
    """Return whether a text says that only the seed was changed."""
    words = re.findall(r"[a-z]+", text.lower())
    return bool({"seed", "seeds"} & {*words}) and set(words) <= SEED_CHANGE_WORDS


def read_outcome(status: str) -> Outcome:
    """Return what a status says became of a run."""
    words = re.findall(r"[a-z]+", status.lower())
    for outcome, known in OUTCOME_WORDS.items():
        if words and any(word in known for word in words[: 2 if outcome == "crash" else 1]):
            return outcome
    return "keep" if {"best", "win", "keep"} & {*words} else ""


def _only_counts(ids: Sequence[str]) -> bool:
    """Return whether the ids are the numbers of the rows."""
    parts = [re.fullmatch(r"(\D*)(\d{1,6})", text) for text in ids]
    return len({part[1] if part else None for part in parts}) == 1 and all(parts) and len(set(ids)) == len(ids) > 1


def _normalize_cell(cell: str) -> str:
    number = parse_cell(cell)
    return cell.strip() if number is None else repr(number)


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def _note_missing_runs(runs: Sequence[LoggedRun]) -> list[str]:
    missing = [run for run in runs if run.value is None]
    if not missing:
        return []
    return [f"{len(missing)} of {len(runs)} rows have no value and do not count as tries, such as row "
            f"{missing[0].number}: {missing[0].problem}"]  # fmt: skip


def _note_other_baselines(runs: Sequence[LoggedRun]) -> list[str]:
    """Return a note on rows that mention a baseline and were not taken for one."""
    found = [run for run in runs if "baseline" in run.description.lower() and not run.is_baseline]
    first = [run for run in found if run.description.lower().lstrip().startswith("baseline")]
    if not first:
        return []
    return [f"row {first[0].number} ({_shorten(first[0].description)}) is taken for a change, not for a repeat of the "
            "baseline; --baseline names others"]  # fmt: skip
