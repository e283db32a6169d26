"""Columns of a table of runs: which one is the metric, what names a run, says what was kept, and describes it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.core.errors import ConfigError, did_you_mean
from harness.evidence.comparing.setting_differences import is_seed_key
from harness.evidence.judging.table_reader import Row
from harness.importers.metric_aliases import (
    POSITIONS,
    TRAIN_WORDS,
    VAL_WORDS,
    canonical_name,
    normalize_name,
    split_words,
)
from harness.importers.metric_directions import is_higher_better
from harness.importers.tables.cells import parse_cell
from harness.record.trial_record import Direction

ID_NAMES = (
    "commit", "commit_hash", "git_commit", "git_sha", "sha", "hash", "id", "run_id", "experiment_id", "exp_id", "run",
    "run_name", "experiment", "exp", "name", "tag", "variant", "config", "trial", "iteration", "iter",
)  # fmt: skip
COMMIT_NAMES = frozenset({"commit", "commit_hash", "git_commit", "git_sha", "sha", "hash"})
SETTING_PREFIX = re.compile(r"(?:config|params|hparams|hyperparameters|settings|args)[./]")
"""Beginning of a column that is a setting, as tools write them."""
STATUS_NAMES = ("status", "decision", "outcome", "verdict", "result", "action", "kept")
DESCRIPTION_NAMES = ("description", "desc", "change", "changes", "notes", "note", "comment", "message", "summary",
                     "hypothesis")  # fmt: skip
COST_WORDS = split_words("cost latency throughput time seconds sec s ms memory mem gb mb vram tokens tok steps params "
                         "delta diff improvement gap change best previous prev lr rate std sd stderr")  # fmt: skip


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table by what they say; None or empty where there is none.

    `config` are the columns of settings, the same values in which make runs repeats of each other.
    """

    metric: str
    direction: Direction
    id: str | None
    status: str | None
    description: str | None
    seed: str | None
    config: tuple[str, ...]


def find_columns(
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    metric: str | None = None,
    direction: Direction | None = None,
    id_column: str | None = None,
    config: Sequence[str] = (),
) -> TableColumns:
    """Return the columns by what they say; those that are given, as they are given.

    Raises:
        ConfigError: If a column does not exist, or metric or direction cannot be told.
    """
    for option, names in (("--metric", [metric]), ("--id", [id_column]), ("--config", config)):
        for name in names:
            if name is not None and name not in columns:
                raise ConfigError(
                    f"{option}: {name}: there is no such column{did_you_mean(name, columns)}; the table has "
                    f"{', '.join(columns)}"
                )
    metric = metric or _find_metric(columns, rows)
    if direction is None:
        more_is_better = is_higher_better(metric)
        if more_is_better is None:
            raise ConfigError(
                f"--metric: {metric}: its name does not say whether more of it is better; add --maximize or --minimize"
            )
        direction = "maximize" if more_is_better else "minimize"
    rest = [name for name in columns if name != metric and name not in config]
    seeds = [name for name in rest if is_seed_key(name)]
    found_id = id_column or _find_named(rest, ID_NAMES)
    _check_is_no_curve(columns, rows)
    if not config and normalize_name(found_id or "") not in COMMIT_NAMES:
        config = [name for name in rest if SETTING_PREFIX.match(name) and name not in seeds]
    return TableColumns(
        metric=metric,
        direction=direction,
        id=found_id,
        status=_find_named(rest, STATUS_NAMES),
        description=_find_named([name for name in rest if name != found_id], DESCRIPTION_NAMES),
        seed=seeds[0] if seeds else None,
        config=tuple(config),
    )


def _check_is_no_curve(columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Check that the rows are not the steps of one run.

    Raises:
        ConfigError: If a step or an epoch increases from row to row, and nothing else says what a row is.
    """
    if _find_named(columns, [*ID_NAMES, *STATUS_NAMES, *DESCRIPTION_NAMES]):
        return
    for column in (name for name in columns if canonical_name(name) in POSITIONS):
        numbers = [parse_cell(row.get(column, "")) for _, row in rows]
        if len(numbers) > 1 and all(a is not None and b is not None and a < b for a, b in pairwise(numbers)):
            raise ConfigError(
                f"TABLE: its rows are the steps of one run, by the column {column}; give a table with a row for each "
                "run, or this one to `plateau diagnose`"
            )


def _find_named(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the column with the first of the names that there is."""
    by_name = {normalize_name(column): column for column in reversed(list(columns))}
    return next((by_name[name] for name in names if name in by_name), None)


def _find_metric(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the column of the metric: with numbers, a name that says what is better, and of an evaluation if any is.

    Raises:
        ConfigError: If there is none, or several could be meant.
    """
    ranked: dict[int, list[str]] = {}
    for column in columns:
        words = set(normalize_name(column).split("_"))
        n_numbers = sum(parse_cell(row.get(column, "")) is not None for _, row in rows)
        if is_higher_better(column) is None or 2 * n_numbers < len(rows) or words & (COST_WORDS | TRAIN_WORDS):
            continue
        is_partial = bool(words & {"final", "raw", "adjusted"})
        ranked.setdefault(0 if words & VAL_WORDS else 2 if is_partial else 1, []).append(column)
    if not ranked:
        raise ConfigError(
            f"--metric: no column is known to be a metric of an evaluation; name one of {', '.join(columns)}"
        )
    best = ranked[min(ranked)]
    if len(best) > 1:
        raise ConfigError(f"--metric: {' or '.join(best)}: several columns could be the metric; name one")
    return best[0]
