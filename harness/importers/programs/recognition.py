"""The program that wrote a log, recognized by what its beginning looks like, so that suggestions use its words."""

import csv
import re

TRANSFORMERS = "transformers"
LIGHTNING = "lightning"

MARKS = {
    TRANSFORMERS: re.compile(
        r"\{'(?:loss|eval_loss)': [^{}\n]*'epoch': "  # what the Trainer prints
        r"|\"current_steps\": \d+, \"total_steps\": \d+"  # trainer_log.jsonl of LLaMA-Factory
        r"|\"log_history\": *\[|\btransformers\.trainer\b|\*\*\*\*\* Running training \*\*\*\*\*"
        r"|\|? *Training Loss *\| *Epoch *\| *Step *\|"  # model cards
    ),
    LIGHTNING: re.compile(r"`Trainer\.fit` |\bv_num=|\b(?:pytorch_)?lightning\.(?:pytorch|utilities)\b|\bhp_metric\b"),
}
"""By `RunFacts.program`."""
STEP_AND_EPOCH = re.compile(r"(?P<name>\w+)_(?:step|epoch)$")
N_HEAD_LINES = 10  # of a table


def guess_program(head: str) -> str | None:
    """Return the program that wrote a log that begins with `head`; None if it is not recognized."""
    found = {program: match.start() for program, mark in MARKS.items() if (match := mark.search(head))}
    if found:
        return min(found, key=found.__getitem__)
    return LIGHTNING if _is_lightning_table(head) else None


def _is_lightning_table(head: str) -> bool:
    """Return whether this is the metrics.csv of a CSVLogger.

    Its rows have a step and an epoch; either they hold the training or the validation loss and leave the other one
    empty, or a metric is there twice, as NAME_step and NAME_epoch.
    """
    try:
        header, *rows = csv.reader(head.splitlines()[:N_HEAD_LINES])
    except (ValueError, csv.Error):
        return False
    names = {name.strip() for name in header}
    if not {"step", "epoch"} <= names:
        return False
    metrics = [match["name"] for name in names if (match := STEP_AND_EPOCH.fullmatch(name))]
    is_sparse = bool(rows) and all(len(row) == len(header) and "" in row for row in rows if len(row) > 1)
    return len(metrics) > len(set(metrics)) or is_sparse
