"""Shapes of tables besides one row per step of one run: one row per metric, runs side by side, one row per run."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from harness.importers.metric_aliases import TRAIN_WORDS, VAL_WORDS, canonical_name, normalize_name, split_words
from harness.importers.tables.record_set import (
    KEY_NAMES,
    RUN_NAMES,
    SPLIT_NAMES,
    TIME_NAMES,
    VALUE_NAMES,
    Record,
    RecordSet,
    is_loss_like,
)

TENSORBOARD_COLUMNS = {"wall_time", "step", "value"}
HYPERPARAMETERS = split_words(
    "batch_size bs train_batch_size weight_decay wd dropout hidden_size hidden_dim d_model n_layers num_layers layers "
    "n_heads num_heads optimizer seed momentum warmup warmup_steps rank lora_rank lora_r alpha lora_alpha beta1 beta2 "
    "embed_dim n_embd chunk_len units depth width sequence_length block_size"
)
TRAIN_SPLITS, VAL_SPLITS, TEST_SPLITS = TRAIN_WORDS | {"fit"}, VAL_WORDS, frozenset({"test", "testing"})
RUN_COLUMN = "run"
MAX_FALLS = 0.3
"""Rows are no moments of a run if the step goes back at a larger share of them."""


def pivot_long_table(found: RecordSet, names: Counter[str]) -> bool:
    """Turn records with the name of a metric in one column and its value in another into ordinary ones, if they are so.

    The export of a chart from TensorBoard has the name of the metric in the name of the file.

    Raises:
        ValueError: If the file of such a chart is not named after a loss.
    """
    value = next((name for name in names if normalize_name(name) in VALUE_NAMES), None)
    if value is None or any(is_loss_like(name) for name in names):
        return False
    texts = {name: found.text_values(name) for name in found.text_columns(KEY_NAMES)}
    key = next((name for name, values in texts.items() if any(map(is_loss_like, values))), None)
    tag = ""
    if key is None:
        if {normalize_name(name) for name in names} - {"step"} != TENSORBOARD_COLUMNS - {"step"}:
            return False
        tag = found.path.name.partition(".csv")[0].partition(".json")[0].rpartition("tag-")[2]
        tag = tag if canonical_name(tag) else tag.rpartition("_")[0] if canonical_name(tag.rpartition("_")[0]) else tag
        if not is_loss_like(tag):
            raise ValueError(
                f"{found.path}: a chart of TensorBoard, whose file name does not say which metric it shows; "
                "rename it to tag-train_loss.csv or tag-val_loss.csv"
            )
        found.notes.append(f"the metric is {tag!r}, from the name of the file")
    for record in found.records:
        name = record.texts.get(key) if key else tag
        if (number := record.numbers.pop(value, None)) is not None and name:
            record.numbers[name] = number
    _sort_by_time(found)
    return True


def _sort_by_time(found: RecordSet) -> None:
    """Sort records of a log without steps by their time: those of one metric often follow those of another."""
    steps = {
        record.numbers[name] for record in found.records for name in record.numbers if canonical_name(name) == "step"
    }
    time = next((name for name in found.count_names() if normalize_name(name) in TIME_NAMES), None)
    if len(steps) > 1 or time is None or not all(time in record.numbers for record in found.records):
        return
    found.records.sort(key=lambda record: record.numbers[time])
    for record in found.records:
        record.numbers = {name: value for name, value in record.numbers.items() if canonical_name(name) != "step"}


def separate_runs_by_column(found: RecordSet, names: Counter[str]) -> bool:
    """Give each run its own records if a table has a column per run, as W&B exports: `run-a - train/loss`."""
    prefixes: dict[str, set[str]] = {}
    for name in names:
        run, separator, metric = name.rpartition(" - ")
        if separator and canonical_name(metric):
            prefixes.setdefault(metric, set()).add(run)
    if max((len(runs) for metric, runs in prefixes.items() if is_loss_like(metric)), default=0) < 2:
        return False
    separated = []
    for record in found.records:
        by_run: dict[str, dict[str, float]] = {}
        common = {}
        for name, number in record.numbers.items():
            run, separator, metric = name.rpartition(" - ")
            if separator and metric in prefixes:
                by_run.setdefault(run, {})[metric] = number
            else:
                common[name] = number
        separated += [
            Record(common | numbers, {**record.texts, RUN_COLUMN: run}, record.location)
            for run, numbers in by_run.items()
        ]
    found.records = separated
    return True


def find_split(found: RecordSet) -> str | None:
    """Return the column that says whether a record is of training or of validation, None if there is none."""
    for column in found.text_columns(SPLIT_NAMES | RUN_NAMES):
        values = {text.lower() for text in found.text_values(column)}
        if values and values <= TRAIN_SPLITS | VAL_SPLITS:
            return column
    return None


def name_losses_by_split(found: RecordSet, column: str, names: Counter[str]) -> None:
    """Rename the loss of each record to train/loss or val/loss; a test set counts if there is no validation set."""
    values = {text.lower() for text in found.text_values(column)}
    skipped = TEST_SPLITS if values & (VAL_SPLITS - TEST_SPLITS) else frozenset()
    plain = [name for name in names if canonical_name(name) == "train/loss" and not _words(name) & TRAIN_SPLITS]
    loss = max(plain, key=lambda name: (names[name], -len(name)), default=None)
    for record in found.records:
        split = record.texts.get(column, "").lower()
        if loss is None or not split:
            continue
        value = record.numbers.pop(loss, None)
        if split in TRAIN_SPLITS:
            record.numbers |= {} if value is None else {"train/loss": value}
        else:
            keep = {name: number for name, number in record.numbers.items() if _is_of_evaluation(name)}
            record.numbers = keep | ({} if value is None or split in skipped else {"val/loss": value})


def _is_of_evaluation(name: str) -> bool:
    """Return whether a number in a record of an evaluation counts: what says where in the run it is."""
    metric = canonical_name(name)
    return metric in ("step", "epoch", "total_steps", "total_epochs", "val/loss", "train/tokens")


def _words(name: str) -> set[str]:
    return set(normalize_name(name).split("_"))


def check_is_log(found: RecordSet, names: Counter[str], position: str | None) -> None:
    """Check that records are moments of a run, not whole runs.

    Raises:
        ValueError: If they are whole runs: one record for each name of a run, or settings that differ between records.
    """
    losses = {name for name in names if is_loss_like(name)}
    records = [record for record in found.records if not losses.isdisjoint(record.numbers)]
    if len(records) < 2:
        return
    positions = [record.numbers[position] for record in records if position in record.numbers]
    falls = sum(second < first for first, second in pairwise(positions))
    if len(set(positions)) > 1 and falls <= MAX_FALLS * len(positions):
        return
    reason = _find_column_of_runs(found, records) or _find_setting(found)
    if reason is None and position and len(positions) == len(records) and len(set(positions)) == 1 and positions[0] > 1:
        reason = f"all have the same {position!r}"
    if reason:
        raise ValueError(
            f"{found.path}: a table of runs: each row has the final numbers of one run ({reason}), so there is no "
            "curve to judge; give the log or the exported history of a run"
        )


def _find_column_of_runs(found: RecordSet, records: Sequence[Record]) -> str | None:
    for column in found.text_columns(RUN_NAMES):
        values = [record.texts[column] for record in records if column in record.texts]
        if len(values) == len(records) and len(set(values)) == len(values):
            return f"column {column!r} differs in every row"
    return None


def _find_setting(found: RecordSet) -> str | None:
    for name in Counter(name for fields in found.sample for name in fields):
        values = {str(fields[name]) for fields in found.sample if fields.get(name) not in (None, "")}
        if normalize_name(name) in HYPERPARAMETERS and len(values) > 1:
            return f"column {name!r} differs between rows"
    return None
