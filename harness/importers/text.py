"""Plain text logs with lines such as `Step 1500: train loss 6.65, val loss 6.74`."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from harness.diagnosis.history import History, RunFacts
from harness.importers.assembly import assemble_histories
from harness.importers.metric_aliases import SUMMARY_KEY, canonical_name
from harness.importers.rows import Row, check_row_count

EXAMPLE = "step 100 | loss 3.21 | lr 1e-4 | grad norm 1.2"
# Quantifiers that never give back, as ++ and *+, keep the time in proportion to the length of a line.
NUMBER = (
    r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d++)?+|\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?|[-+]?(?:nan|inf(?:inity)?)\b"
)
LINE_NAMES = (
    "train_loss loss training_loss loss_train train_loss_step lm_loss train_err train_error train avr_loss avg_loss "
    "val_loss eval_loss valid_loss validation_loss dev_loss test_loss loss_val loss_eval loss_valid loss_validation "
    "val_error val_err val lr learning_rate grad_norm gradient_norm gnorm norm clip_fraction tokens tokens_seen "
    "num_tokens total_tokens tokens_per_second tokens_per_sec tok_s tok_sec tokens_s tokens_sec tps steps_per_second "
    "it_s coverage global_step step steps iter iters iteration iterations it update updates batch epoch num_updates"
)
# longer names first: the regular expression takes the first that matches
NAMES = "|".join(name.replace("_", r"[\s_/.\-]*") for name in sorted(LINE_NAMES.split(), key=len, reverse=True))
READING_PATTERN = re.compile(
    rf"(?<![A-Za-z0-9_])(?P<name>{NAMES})s?[\"'\])]*+\s*+[:=#~≈|@(\[]*+\s*+[\"'~≈(\[]*+\s*+(?P<value>{NUMBER})"
    rf"(?:\s*+/\s*+(?P<total>\d++))?(?!\w)",
    re.IGNORECASE,
)
# A name that follows one of these words is not measured at this step.
NOT_A_READING = re.compile(
    r"(?:best|lowest|minimum|min|target|expected|previous|ema|avg|average)[\s_/:-]*$", re.IGNORECASE
)


def read_text_log(lines: Iterable[str], path: Path) -> list[History]:
    """Read the lines of the file `path` that hold a step and metrics; ValueError if no line holds a loss."""
    n_lines, first_line, rows = 0, "", []
    for line in (part for whole in lines for part in whole.splitlines() if part.strip()):
        n_lines, first_line = n_lines + 1, first_line or line.strip()[:80]
        if SUMMARY_KEY not in line and (row := parse_line(line)):
            rows.append(row)
            check_row_count(rows, path)
    if not any(row.values.keys() & {"train/loss", "val/loss"} for row in rows):
        shown = f"; the first line is {first_line!r}" if n_lines else ""
        raise ValueError(f"{path}: no step and loss found in {n_lines} lines; expected e.g. {EXAMPLE!r}{shown}")
    source = f"text log {path}: {len(rows)} of {n_lines} lines parsed"
    return assemble_histories(rows, RunFacts(name=path.stem, source=source))


def parse_line(line: str) -> Row | None:
    """Return what a line says, with numbers by our metric names; None if it has none."""
    row, names = Row(), set()
    for match in READING_PATTERN.finditer(line):
        name = canonical_name(match["name"])
        if name is None or name in names or NOT_A_READING.search(line, max(0, match.start() - 16), match.start()):
            continue
        value = float(match["value"].replace(",", ""))
        if name in ("step", "epoch"):
            if math.isfinite(value):
                names.add(name)
                setattr(row, name, value)
                if name == "step" and match["total"] and row.epoch is not None:  # as in "epoch 2 iter 100/200"
                    row.epoch_length = float(match["total"])
            continue
        names.add(name)
        row.values[name] = value
    return row if names else None
