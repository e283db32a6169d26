"""Reasons why the values of two configurations in a log must not be compared."""

import re
from collections.abc import Iterable, Sequence

from harness.evidence.judging.run_log import LoggedConfig, LoggedRun, RunLog
from harness.evidence.judging.table_runs import is_seed_change_text
from harness.importers.metric_aliases import VAL_WORDS, normalize_name, split_words
from harness.importers.tables.cells import parse_cell

DATA_WORDS = split_words("data dataset datasets set split corpus shard shards file files digest")
CODE_WORDS = split_words("code version commit hash script sha harness digest evaluator prepare scorer")
FIXED_NAMES = split_words(
    "dataset data_set data_digest data_version dataset_version split tokenizer vocab_size vocab unit units denominator "
    "metric_version benchmark evaluator scorer n_eval num_eval n_examples n_test n_val"
)
COUNT_WORDS = split_words("tokens batches examples samples bytes size count n num rows documents docs items cases")
BUDGET_WORDS = split_words("budget limit max maximum cap timeout target")
COST_WORDS = split_words("seconds sec secs s minutes min mins hours hour h time duration runtime tokens steps step "
                         "iterations iters epochs updates flops compute wall walltime")  # fmt: skip
TOLERANCE = 0.02  # of a budget, by which runs of one length differ
SMALLEST_BUDGET = 0.05  # of any unit; smaller numbers are measured


def find_differences(
    log: RunLog, candidate: LoggedConfig, reference: LoggedConfig, ignored: Sequence[str] = ()
) -> list[str]:
    """Return why the candidate cannot be compared with the reference; empty if it can."""
    reasons = [
        f"{log.unit_name} {run.number} of the candidate has no result: {run.problem}; fix and rerun it, or drop that "
        f"{log.unit_name} if the change was not the cause"
        for run in candidate.runs
        if run.value is None
    ]
    if not reference.values:
        reasons.append(f"{reference.label} has no result: {reference.runs[0].problem}")
    if not candidate.values or not reference.values:
        return reasons
    reasons += _find_seed_reasons(log, candidate, reference)
    columns = dict.fromkeys(name for run in (*candidate.runs, *reference.runs) for name in run.cells)
    for column in columns:
        if column not in ignored and (reason := _compare_column(log, column, candidate, reference)):
            reasons.append(reason)
    return reasons


def note_unchecked(log: RunLog) -> list[str]:
    """Return what the log does not say, so that it could not be checked."""
    return (
        [] if log.names_seeds else [f"the {log.unit_name}s name no seeds: repeats with one seed would hide the noise"]
    )


def _find_seed_reasons(log: RunLog, candidate: LoggedConfig, reference: LoggedConfig) -> list[str]:
    if candidate.key == reference.key:
        return [f"the candidate is another run of {reference.label}: its only change is the seed"]
    if any(is_seed_change_text(run.description) for run in candidate.runs):
        return ["the only change is the seed, which is a draw from the noise and no improvement"]
    tested = {run.seed for run in candidate.measured if run.seed is not None}
    known = {run.seed for run in reference.measured if run.seed is not None}
    if len(known) == 1 and tested and not tested & known and not _varies_seeds(log):
        return [
            f"the seed differs too: {', '.join(sorted(tested))} against {known.pop()}, and what a seed changes "
            "is unknown; rerun the candidate with the seed of the reference, or the reference with other seeds"
        ]
    return []


def _varies_seeds(log: RunLog) -> bool:
    """Return whether some configuration was run with several seeds, so that their noise is measured."""
    return any(len({run.seed for run in config.measured}) > 1 for config in log.configs)


def _compare_column(log: RunLog, column: str, candidate: LoggedConfig, reference: LoggedConfig) -> str:
    """Return why a column makes the two sides not comparable; an empty string if it does not."""
    tested, known = _list_cells(candidate.runs, column), _list_cells(reference.runs, column)
    if not tested or not known:
        return ""
    kind = _find_kind(column)
    if kind in ("data", "code", "measure") and {*tested} != {*known}:
        about = {"data": "the validation data", "code": "the evaluation code", "measure": "the measure"}[kind]
        return f"{about} changed: {column} is {_join(tested)}, and was {_join(known)}"
    if kind == "budget" and _differs(tested, known):
        return f"the budget changed: {column} is {_join(tested)}, and was {_join(known)}"
    if kind == "cost" and _is_longer(log, column, candidate):
        return f"the run was longer: {column} is {_join(tested)}, and was {_join(known)} in all others"
    return ""


def _find_kind(column: str) -> str:
    """Return what a column holds: data, code or measure of the evaluation, a budget, a cost; empty for others."""
    name = normalize_name(column)
    words = set(name.split("_"))
    is_of_evaluation = bool(words & (VAL_WORDS | {"test"}))
    if is_of_evaluation and words & CODE_WORDS:
        return "code"
    if is_of_evaluation and words & DATA_WORDS:
        return "data"
    if is_of_evaluation and words & COUNT_WORDS and not words & {"loss", "acc", "accuracy", "error"}:
        return "measure"
    if name in FIXED_NAMES:
        return "data" if words & DATA_WORDS else "measure"
    if words & BUDGET_WORDS and words & (COST_WORDS | {"budget"}):
        return "budget"
    return "cost" if words & COST_WORDS and not words & {"per", "tok", "ms", "latency"} else ""


def _is_longer(log: RunLog, column: str, candidate: LoggedConfig) -> bool:
    """Return whether a cost is the same in all other runs, a budget in fact, and the candidate exceeds it."""
    others = [run for run in log.runs if run.value is not None and run.config != candidate.key]
    costs = _read_numbers(run.cells.get(column, "") for run in others)
    tested = _read_numbers(_list_cells(candidate.runs, column))
    if len(costs) < 3 or not tested or min(costs) <= 0:
        return False
    is_fixed = max(costs) <= (1 + TOLERANCE) * min(costs)
    return is_fixed and max(tested) > (1 + TOLERANCE) * max(costs)


def _differs(tested: Sequence[str], known: Sequence[str]) -> bool:
    numbers = _read_numbers(tested), _read_numbers(known)
    if not all(numbers):
        return {*tested} != {*known}
    low, high = min(map(min, numbers)), max(map(max, numbers))
    return high - low > max(TOLERANCE * abs(high), SMALLEST_BUDGET)


def _list_cells(runs: Iterable[LoggedRun], column: str) -> list[str]:
    return list(dict.fromkeys(cell for run in runs if (cell := run.cells.get(column, "").strip())))


def _read_numbers(cells: Iterable[str]) -> list[float]:
    return [value for cell in cells if (value := parse_cell(re.sub(r"\s*(s|sec|min|h)$", "", cell))) is not None]


def _join(cells: Sequence[str]) -> str:
    return " or ".join(cells[:3]) + " …" * (len(cells) > 3)
