"""Logs of loops, as text and as runs."""

from collections.abc import Sequence
from pathlib import Path

from harness.evidence.judging.judgement import Judgement
from harness.evidence.judging.referee import judge_candidate
from harness.evidence.judging.references import find_candidate, find_reference
from harness.evidence.judging.run_log import LoggedRun, RunLog
from harness.evidence.judging.table_columns import find_columns
from harness.evidence.judging.table_reader import read_table_rows
from harness.evidence.judging.table_runs import build_run_log

REPEATS = (1.2850, 1.2862, 1.2841, 1.2855, 1.2848)
HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription"


def write_table(folder: Path, *rows: str, header: str = HEADER, name: str = "results.tsv") -> Path:
    """Write a table whose rows have spaces of two or more, or tabs, between their cells."""
    path = folder / name
    lines = ["\t".join(part.strip() for part in row.replace("\t", "  ").split("  ") if part.strip()) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def baseline_rows(values: Sequence[float] = REPEATS) -> list[str]:
    return [f"aaaaaa1  {value}  4.0  keep  baseline seed {seed}" for seed, value in enumerate(values)]


def read_log(path: Path, **options: object) -> RunLog:
    columns, rows, notes = read_table_rows(path)
    return build_run_log(rows, find_columns(columns, rows, **options), path, notes)  # type: ignore[arg-type]


def judge_log(log: RunLog) -> Judgement:
    candidate = find_candidate(log)
    return judge_candidate(log, candidate, find_reference(log, candidate))


def judge_table(path: Path, **options: object) -> Judgement:
    return judge_log(read_log(path, **options))


def make_run(number: int, config: str, value: float, **fields: object) -> LoggedRun:
    return LoggedRun(number, config, config, float(value), is_baseline=config == "baseline", **fields)  # type: ignore


def make_log(*runs: LoggedRun) -> RunLog:
    return RunLog("loop", "loss", "minimize", runs)
