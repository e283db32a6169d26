"""Plain text logs: what lines such as `Step 1500: train loss 6.65, val loss 6.74` tell."""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from harness.diagnosis.history import History, RunFacts
from harness.importers.metric_aliases import (
    EPOCH_ALIASES,
    METRIC_ALIASES,
    STEP_ALIASES,
    SUMMARY_KEY,
    build_history,
    canonical_name,
)
from harness.importers.step_numbering import StepCounter
from harness.importers.tables import STEPS_PER_EPOCH

EXAMPLE = "step 100 | loss 3.21 | lr 1e-4 | grad norm 1.2"
NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)\b"
NAMES = sorted(
    chain.from_iterable(names.split() for names in (*METRIC_ALIASES.values(), STEP_ALIASES, EPOCH_ALIASES)), key=len
)[::-1]
SPELLED = "|".join(name.replace("_", r"[\s_/.\-]*") for name in NAMES)
READING_PATTERN = re.compile(
    rf"(?<![A-Za-z0-9_])(?P<name>{SPELLED})s?[\"'\])]*\s*[:=#~≈|@(\[]*\s*[\"'~≈(\[]*\s*(?P<value>{NUMBER})"
    rf"(?:\s*/\s*(?P<of>\d+))?(?!\w)",
    re.IGNORECASE,
)
NOT_A_READING = re.compile(
    r"(?:best|lowest|minimum|min|target|expected|previous|ema|avg|average)[\s_/:-]*$", re.IGNORECASE
)
"""Before a name: what follows is no reading of this step."""


def read_text_log(path: Path) -> History:
    """ValueError, with a line of the file and one that would do, where no line tells of a step and a loss."""
    lines = [line for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()]
    readings = list(_assign_steps(parse_line(line) for line in lines if SUMMARY_KEY not in line))
    points: dict[str, list[tuple[int, float]]] = {}
    for step, reading in readings:
        for name, value in reading.items():
            points.setdefault(name, []).append((step, value))
    if not {"train/loss", "val/loss"} & points.keys():
        shown = f"; it begins {lines[0].strip()[:80]!r}" if lines else ""
        raise ValueError(f"{path}: none of {len(lines)} lines tells a step and a loss, as {EXAMPLE!r} would{shown}")
    source = f"text log {path}: {len(readings)} of {len(lines)} lines understood"
    return build_history(points, RunFacts(name=path.stem, source=source))


def parse_line(line: str) -> dict[str, float]:
    """The numbers of a line by our names, with `step`, `epoch` and, where it is told, `of`: the steps of an epoch."""
    found: dict[str, float] = {}
    for match in READING_PATTERN.finditer(line):
        name = canonical_name(match["name"])
        if name is None or name in found or NOT_A_READING.search(line, max(0, match.start() - 16), match.start()):
            continue
        value = float(match["value"].replace(",", ""))
        if name in ("step", "epoch") and not math.isfinite(value):
            continue
        found[name] = value
        if name == "step" and match["of"] and "epoch" in found:
            found["of"] = float(match["of"])
    return found


def _assign_steps(readings: Iterable[dict[str, float]]) -> Iterator[tuple[int, dict[str, float]]]:
    """Each line's readings at its step; a line without one belongs to the step before."""
    lines = [reading for reading in readings if reading]
    has_steps = any("step" in line for line in lines)
    per_epoch = STEPS_PER_EPOCH if any(line.get("epoch", 0) % 1 for line in lines) else 1
    count, at = StepCounter(), None
    for line in lines:
        if "step" in line:
            at = count(round(line["step"]), line.get("epoch"), line.get("of"))
        elif not has_steps and "epoch" in line:
            at = round(line["epoch"] * per_epoch)
        told = {name: value for name, value in line.items() if name not in ("step", "of")}
        if at is not None and told:
            yield at, told
