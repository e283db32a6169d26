"""Choose runs of a log by an id, or by a column and its value."""

import re
from dataclasses import replace

from harness.core.errors import ConfigError
from harness.evidence.judging.run_log import LoggedConfig, LoggedRun, RunLog

NUMBERS = re.compile(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*")


def select_runs(log: RunLog, selector: str, option: str) -> list[LoggedRun]:
    """Return the runs whose id is `selector` or begins so, or whose cell in COLUMN of COLUMN=VALUE is VALUE.

    COLUMN may be row or trial, with numbers and ranges of them.

    Raises:
        ConfigError: If there is none.
    """
    column, equals, value = selector.partition("=")
    if equals and column in ("row", "trial") and NUMBERS.fullmatch(value):
        numbers = set()
        for part in value.split(","):
            first, _, last = part.partition("-")
            numbers |= set(range(int(first), int(last or first) + 1)) if int(last or first) < 1e7 else set()
        found = [run for run in log.runs if run.number in numbers]
    elif equals:
        found = [run for run in log.runs if run.cells.get(column, "").strip() == value.strip()]
    else:
        found = [run for run in log.runs if selector in (run.name, run.name.partition(" (")[0], run.config)]
        found = found or [run for run in log.runs if len(selector) >= 4 and run.name.startswith(selector)]
    if not found:
        raise ConfigError(
            f"{option}: {selector}: no {log.unit_name} is called so; give an id, or COLUMN=VALUE such as "
            f"{log.unit_name}={log.runs[-1].number}"
        )
    return found


def select_config(log: RunLog, selector: str) -> LoggedConfig:
    """Return the configuration of the chosen runs.

    Raises:
        ConfigError: If there is none, or they have several.
    """
    found = select_runs(log, selector, "--candidate")
    keys = list(dict.fromkeys(run.config for run in found))
    if len(keys) > 1:
        raise ConfigError(f"--candidate: {selector}: stands for {len(keys)} configurations; name one of them, such as "
                          f"{log.unit_name}={found[-1].number}")  # fmt: skip
    return next(config for config in log.configs if config.key == keys[0])


def join_baseline(log: RunLog, selector: str | None) -> RunLog:
    """Return the log with the chosen runs as repeats of the baseline, and no others."""
    if selector is None:
        return log
    chosen = {run.number for run in select_runs(log, selector, "--baseline")}
    runs = []
    for run in log.runs:
        if run.number in chosen:
            runs.append(replace(run, config="the baseline", is_baseline=True))
        else:
            runs.append(replace(run, is_baseline=False))
    return replace(log, runs=tuple(runs))
