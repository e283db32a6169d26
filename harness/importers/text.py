"""Plain text logs with lines such as `Step 1500: train loss 6.65, val loss 6.74`."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.diagnosis.history import History, RunFacts
from harness.importers.metric_aliases import CANONICAL_NAMES, SUMMARY_KEY, build_history, canonical_name
from harness.importers.step_numbering import StepCounter
from harness.importers.tables import PSEUDO_STEPS_PER_EPOCH, check_row_count

EXAMPLE = "step 100 | loss 3.21 | lr 1e-4 | grad norm 1.2"
# Quantifiers that never give back, as ++ and *+, keep the time in proportion to the length of a line.
NUMBER = (
    r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d++)?+|\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?|[-+]?(?:nan|inf(?:inity)?)\b"
)
# longer names first: the regular expression takes the first that matches
NAMES = "|".join(name.replace("_", r"[\s_/.\-]*") for name in sorted(CANONICAL_NAMES, key=len, reverse=True))
READING_PATTERN = re.compile(
    rf"(?<![A-Za-z0-9_])(?P<name>{NAMES})s?[\"'\])]*+\s*+[:=#~≈|@(\[]*+\s*+[\"'~≈(\[]*+\s*+(?P<value>{NUMBER})"
    rf"(?:\s*+/\s*+(?P<total>\d++))?(?!\w)",
    re.IGNORECASE,
)
# A name that follows one of these words is not measured at this step.
NOT_A_READING = re.compile(
    r"(?:best|lowest|minimum|min|target|expected|previous|ema|avg|average)[\s_/:-]*$", re.IGNORECASE
)


def read_text_log(lines: Iterable[str], path: Path) -> History:
    """Read the lines of the file `path` that hold a step and metrics; ValueError if no line holds a loss."""
    n_lines, first_line = 0, ""
    parsed: list[dict[str, float]] = []
    for line in (part for whole in lines for part in whole.splitlines() if part.strip()):
        n_lines, first_line = n_lines + 1, first_line or line.strip()[:80]
        if SUMMARY_KEY not in line and (row := parse_line(line)):
            parsed.append(row)
            check_row_count(len(parsed), path)
    n_rows = 0
    points: dict[str, list[tuple[int, float]]] = {}
    for step, row in _assign_steps(parsed):
        n_rows += 1
        for name, value in row.items():
            points.setdefault(name, []).append((step, value))
    if not {"train/loss", "val/loss"} & points.keys():
        shown = f"; the first line is {first_line!r}" if n_lines else ""
        raise ValueError(f"{path}: no step and loss found in {n_lines} lines; expected e.g. {EXAMPLE!r}{shown}")
    source = f"text log {path}: {n_rows} of {n_lines} lines parsed"
    return build_history(points, RunFacts(name=path.stem, source=source))


def parse_line(line: str) -> dict[str, float]:
    """Return the numbers of a line by our metric names, with `step`, `epoch` and `epoch_length` (steps) if present."""
    row: dict[str, float] = {}
    for match in READING_PATTERN.finditer(line):
        name = canonical_name(match["name"])
        if name is None or name in row or NOT_A_READING.search(line, max(0, match.start() - 16), match.start()):
            continue
        value = float(match["value"].replace(",", ""))
        if name in ("step", "epoch") and not math.isfinite(value):
            continue
        row[name] = value
        if name == "step" and match["total"] and "epoch" in row:  # as in "epoch 2 iter 100/200"
            row["epoch_length"] = float(match["total"])
    return row


def _assign_steps(rows: Sequence[dict[str, float]]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield each line's metrics with their step of the run, which is that of the previous line if it has none."""
    has_steps = any("step" in row for row in rows)
    steps_per_epoch = PSEUDO_STEPS_PER_EPOCH if any(row.get("epoch", 0) % 1 for row in rows) else 1
    count, step = StepCounter(), None
    for row in rows:
        if "step" in row:
            step = count(round(row["step"]), row.get("epoch"), row.get("epoch_length"))
        elif not has_steps and "epoch" in row:
            step = round(row["epoch"] * steps_per_epoch)
        metrics = {name: value for name, value in row.items() if name not in ("step", "epoch_length")}
        if step is not None and metrics:
            yield step, metrics
