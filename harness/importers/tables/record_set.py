"""Records: rows of tables and objects of JSON, as numbers and texts by the names of their fields."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.diagnosis.history import LOSS_METRICS
from harness.importers.metric_aliases import REJECTED_WORDS, canonical_name, normalize_name, split_words
from harness.importers.rows import check_row_count
from harness.importers.tables.cells import parse_cell, sum_of_list

RUN_NAMES = split_words(
    "run run_id run_name run_uuid name experiment experiment_name experiment_id exp exp_name trial trial_id "
    "trial_name version seed random_seed fold model model_name config config_name method algorithm algo task job "
    "job_id optimizer variant setting"
)
RANK_NAMES = split_words(
    "rank local_rank global_rank world_rank process process_index process_id proc proc_id worker worker_id host "
    "hostname node node_rank device device_id gpu_id replica replica_id shard"
)
SPLIT_NAMES = split_words("split phase mode stage subset partition set dataset fold kind type prefix")
KEY_NAMES = split_words("key metric metric_name metricname tag variable series name")
VALUE_NAMES = split_words("value metric_value metricvalue scalar")
TEXT_NAMES = RUN_NAMES | RANK_NAMES | SPLIT_NAMES | KEY_NAMES
INDEX_NAMES = frozenset(["", "unnamed_0", "index", "row"])
NO_TEXTS: Mapping[str, str] = {}  # shared by the records that have none
TIME_NAMES = split_words("timestamp wall_time walltime time date created_at")
EPOCH_OF = re.compile(r"(\d+)\s*/\s*(\d+)")
"""`3/100`, as Ultralytics prints the epoch."""
SAMPLE_SIZE = 200
"""Number of records that are kept whole, to recognize a table of runs and to say what a file contains."""


@dataclass(slots=True)
class Record:
    """The numbers and the texts of one row of a table, by the names of its columns."""

    numbers: dict[str, float]
    texts: Mapping[str, str]
    location: str
    starts_log: bool = False


@dataclass
class RecordSet:
    """The records of a file."""

    path: Path
    kind: str  # of the file, such as CSV, for messages
    records: list[Record] = field(default_factory=list)
    sample: list[Mapping[str, Any]] = field(default_factory=list)  # the first records with all their fields
    notes: list[str] = field(default_factory=list)  # for the source

    def count_names(self) -> Counter[str]:
        """Return how many records have a number by each name."""
        names: Counter[str] = Counter()
        for record in self.records:
            names.update(record.numbers.keys())
        return names

    def text_values(self, name: str) -> Counter[str]:
        """Return how often a column has each of its texts."""
        return Counter(record.texts[name] for record in self.records if name in record.texts)

    def text_columns(self, names: Iterable[str]) -> list[str]:
        """Return the columns that have one of the names, as they are spelled in the file."""
        columns = dict.fromkeys(name for record in self.records for name in record.texts)
        return [column for column in columns if normalize_name(column) in names]


def collect_records(located: Iterable[tuple[str, Mapping[str, Any], bool]], path: Path, kind: str) -> RecordSet:
    """Collect (location in the file, fields, whether a header stands above) triples, with the fields of use."""
    found = RecordSet(path, kind)
    roles: dict[str, str] = {}
    for location, fields, starts_log in located:
        numbers: dict[str, float] = {}
        texts: dict[str, str] = {}
        for name, value in fields.items():
            role = roles.get(name)
            if role is None:
                role = roles[name] = _find_role(name)
            if not role or value is None or value == "":
                continue
            number = parse_cell(value)
            if number is None and role == "loss":
                number = sum_of_list(value)
            if number is None and canonical_name(name) == "epoch" and (part := EPOCH_OF.fullmatch(str(value).strip())):
                number, numbers["total_epochs"] = float(part[1]), float(part[2])
            if number is not None:
                numbers[name] = number
            if role == "text":
                texts[name] = f"{number:g}" if number is not None else str(value).strip()
        found.records.append(Record(numbers, texts or NO_TEXTS, location, starts_log))
        if len(found.sample) < SAMPLE_SIZE:
            found.sample.append(fields)
        check_row_count(found.records, path)
    return found


@lru_cache(4096)
def is_loss_like(name: str) -> bool:
    """Return whether the name says a loss or a part of one."""
    if canonical_name(name) in (*LOSS_METRICS, "train/ppl", "val/ppl"):
        return True
    words = normalize_name(name).split("_")
    return any(word.endswith(("loss", "losses")) for word in words) and not set(words) & REJECTED_WORDS


def _find_role(name: str) -> str:
    """Return what a field is used for: "loss", "number", "text", or "" for nothing."""
    text = normalize_name(str(name))
    if str(name).endswith(("__MIN", "__MAX")):  # W&B
        return ""
    if is_loss_like(str(name)):
        return "loss"
    if text in TEXT_NAMES:
        return "text"
    is_known = canonical_name(str(name)) is not None
    return "number" if is_known or text in INDEX_NAMES | VALUE_NAMES | TIME_NAMES else ""
