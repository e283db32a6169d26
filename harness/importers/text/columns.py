"""Columns: what the numbers of one line of a log stand for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.diagnosis.history import LOSS_METRICS
from harness.importers.metric_aliases import BARE_SPLIT_TIER, POSITIONS
from harness.importers.numbers import MISSING, is_whole, parse_token, position_unit
from harness.importers.text.labels import (
    NO_LABEL,
    Label,
    find_context,
    read_awaiting_name,
    read_label,
    read_split_pair,
    says_extreme,
)

MAX_NUMBER_CHARS = 40
MAX_FREE_COLUMNS = 4  # numbers without a label, of which one may be the step
BAR_ORDER, BRACKET_ORDER, FRACTION_ORDER, FREE_ORDER = 60, 50, 70, 90
"""Places of positions without a name among those with one (`name_order`), the most specific first."""
KERAS_BAR = re.compile(r"^ ?(?:\[[=>.\s-]*\]?|[━╸╺─]+| - )")
NEXT_IN_BRACKETS = re.compile(r"^\]?[:,]?\s*\[\s*$")
VALUE_AFTER_POSITION = re.compile(r"[\s)\]]*(?::|=|is|was|->|→|-)\s*", re.IGNORECASE)
ONE_OF_PAIR = re.compile(r"[A-Za-z]/[A-Za-z]+ \w+\W*$")  # `train/val loss: 2.1`, which does not say of which
ARROW = re.compile(r"\s*(?:-+>|=+>|→|⇒)\s*")
PAIR_GAP = re.compile(r"\s*[/|,;&]\s*|\s+(?:and\s+|vs\.?\s+)?")
SLASH = re.compile(r"^\s*(?:/|of)\s*$|^\]?/\[?$")


@dataclass(slots=True)
class LineNumber:
    """One number of a line.

    Roles: step, epoch, total_steps, total_epochs, metric, part (of the loss), mean, second, rank, free.
    """

    index: int  # among the numbers of the line
    role: str
    name: str = ""
    metric: str | None = None
    order: int = 0
    of: int | None = None  # index of the number that follows as in 10/600
    is_summed: bool = False  # with others of its name


NO_COLUMN = LineNumber(-1, "")


class ColumnReader:
    """Finds out what the numbers of a line stand for, from left to right."""

    def __init__(self, gaps: Sequence[str], tokens: Sequence[str]) -> None:
        self._gaps, self._tokens = gaps, tokens
        self.context: str | None = None
        self.is_bar = False
        self._columns: list[LineNumber] = []
        self._at = 0
        self.has_extreme = False  # a metric is the best one, or a target
        self._is_extreme = False  # after "best", until the next clause
        self._pending = NO_LABEL  # as in `Loss after 100 steps: 3.2`
        self._awaiting = NO_LABEL  # as in `Cost after iteration 100: 3.2`

    def read(self) -> list[LineNumber]:
        while self._at < len(self._tokens):
            gap = self._gaps[self._at]
            self.context = find_context(gap) or self.context
            if "|" in gap or ";" in gap:
                self._is_extreme = False
            self._is_extreme = self._is_extreme or says_extreme(gap)
            self._at += self._read_number()
        last = find_context(self._gaps[-1]) if not self._columns else None
        self.context = self.context or last
        return _drop_bare_splits(self._columns, self._tokens)

    def _read_number(self) -> int:
        """Add the columns of the number at the current place; return how many numbers were used."""
        at, token = self._at, self._tokens[self._at]
        if used := self._read_split_pair(at):
            return used
        label = self._find_label()
        if label.metric in ("step", "epoch"):
            self._awaiting = read_awaiting_name(self._gaps[at])
        value = parse_token(token, is_count=True)
        if parse_token(token) == value == MISSING or len(token) > MAX_NUMBER_CHARS:
            return 1
        total = at + 1 if self._is_fraction(at) else None
        unit = position_unit(token)
        is_after_share = at > 0 and self._tokens[at - 1].endswith("%") and self._gaps[at].startswith("|")
        if total is not None and (is_after_share or (unit == "step" and position_unit(self._tokens[total]) == "step")):
            self.is_bar = True
            return self._add_position("step", at, total, BAR_ORDER)
        if unit == "step" and self._gaps[at + 1].startswith(" ["):  # a bar without a length: 120it [00:10, 11.5it/s
            self.is_bar = True
            return self._add_position("step", at, total, BAR_ORDER)
        if token.endswith("%"):
            return 1
        if unit and self._gaps[at + 1][:1] != "/" and "/" not in self._gaps[at][-1:]:
            return self._add_position(unit, at, total, FRACTION_ORDER)
        if label.metric in ("step", "epoch"):
            return self._add_position(label.metric, at, total, label.order, label.name)
        if label.metric in ("total_steps", "total_epochs"):
            self._columns.append(LineNumber(at, label.metric))
            return 1
        if label.metric is None and self._is_rank():
            self._columns.append(LineNumber(at, "rank"))
            return 1
        is_bare = label.metric in LOSS_METRICS and label.order == BARE_SPLIT_TIER
        if (label.metric is None and not label.is_part) or (is_bare and (token.isdigit() or total is not None)):
            return self._read_unlabelled(at, total, label)
        return self._read_metric(label, at)

    def _read_split_pair(self, at: int) -> int:
        """Add the losses of several splits, as in `train/val loss: 2.1/2.2`; return how many numbers were used."""
        labels = read_split_pair(self._gaps[at])
        gaps = self._gaps[at + 1 : at + len(labels)]
        if not labels or at + len(labels) > len(self._tokens) or not all(map(PAIR_GAP.fullmatch, gaps)):
            return 1 if labels and ONE_OF_PAIR.search(self._gaps[at]) else 0
        for place, label in enumerate(labels, at):
            self._read_metric(label, place)
        return len(labels)

    def _find_label(self) -> Label:
        gap = self._gaps[self._at]
        closed = re.match(r"^[\])]+\s*[:=]\s*$", gap)
        if closed and self._at:  # optim/LR (group 0)=2e-4
            previous = re.sub(r"[(\[][^()\[\]]*$", "", self._gaps[self._at - 1])
            label = read_label(previous)
            return label if label.metric not in ("step", "epoch") else NO_LABEL
        after = re.match(r"^\s(steps?|iterations?|iters?|epochs?|updates?|batches)\b\s*[:,)]\s*$", gap)
        if after and self._pending.metric and self._columns and self._columns[-1].role == "free":
            free = self._columns.pop()
            role = "epoch" if after[1].startswith("epoch") else "step"
            self._columns.append(LineNumber(free.index, role, after[1], order=10))
            return self._pending
        label = read_label(re.sub(r"^[/A-Za-z%][\w/]*\s", " ", gap) if self._at else gap)  # without the unit before
        if label.metric is None and label.words == 1 and self.context:  # Eval: 16_h1=0.441
            known = read_label(f"{self.context} {label.name}")
            label = known if known.metric in LOSS_METRICS else label
        if label.metric is None and self._awaiting.metric and VALUE_AFTER_POSITION.fullmatch(gap):
            label, self._awaiting = self._awaiting, NO_LABEL
        words = re.fullmatch(r"(.*\bloss)\s+(?:after|at)\s+", gap.lower())
        self._pending = read_label(words[1]) if words else NO_LABEL
        return label

    def _is_fraction(self, at: int) -> bool:
        """Return whether the number is the n of n/N, where both are whole."""
        if at + 1 >= len(self._tokens) or not SLASH.match(self._gaps[at + 1]):
            return False
        values = [parse_token(self._tokens[index], is_count=True) for index in (at, at + 1)]
        return MISSING not in values and all(map(is_whole, values)) and values[0] <= values[1]

    def _is_rank(self) -> bool:
        return re.search(r"\b(?:local_|global_)?rank\W{0,3}$", self._gaps[self._at], re.IGNORECASE) is not None

    def _add_position(self, role: str, at: int, total: int | None, order: int, name: str = "") -> int:
        if not self._is_extreme:
            self._columns.append(LineNumber(at, role, name, order=order, of=total))
        return 1 if total is None else 2

    def _read_unlabelled(self, at: int, total: int | None, label: Label) -> int:
        """Read a number without a known label: a position in brackets, the n of n/N, a mean, or maybe a step."""
        gap, previous = self._gaps[at], self._columns[-1] if self._columns else None
        is_next = NEXT_IN_BRACKETS.match(gap) is not None and previous is not None
        last_index = (previous.of if previous.of is not None else previous.index) if previous else -2
        is_next = is_next and last_index == at - 1 and (total is not None or (previous or NO_COLUMN).role == "epoch")
        if is_next and previous is not None and previous.role in ("step", "epoch", "free"):
            if previous.role != "epoch":
                previous.role, previous.order = "epoch", BRACKET_ORDER
            return self._add_position("step", at, total, BRACKET_ORDER)
        if previous is not None and previous.role == "metric" and previous.index == at - 1:
            if ARROW.fullmatch(gap):  # from the value before to that of this line
                previous.index = at
                return 1
            role = {"(": "mean", "|": "second"}.get(gap.strip())
            if role:
                self._columns.append(LineNumber(at, role, previous.name, previous.metric))
                return 1
        if total is not None:
            is_after_epoch = previous is not None and previous.role == "epoch" and last_index == at - 1
            is_place = gap.rstrip().endswith("[") or self._is_place(at, label, " ,;|-" if is_after_epoch else None)
            return self._add_position("step", at, total, FRACTION_ORDER + label.words) if is_place else 2
        metric = previous if previous is not None and previous.role == "metric" and previous.index == at - 1 else None
        if metric is not None and metric.metric in LOSS_METRICS and self._is_step_before_loss(metric, at):
            self._columns[-1] = LineNumber(metric.index, "step", order=FRACTION_ORDER)
            self._columns.append(LineNumber(at, "metric", metric.name, metric.metric, metric.order))
            return 1
        if self._is_named_behind(at):
            return 1
        frees = sum(column.role == "free" for column in self._columns)
        if frees < MAX_FREE_COLUMNS and is_whole(parse_token(self._tokens[at], is_count=True)):
            order = FREE_ORDER + (0 if not label.words or gap.rstrip().endswith("[") else label.words)
            self._columns.append(LineNumber(at, "free", label.name, order=order))
        return 1

    def _is_place(self, at: int, label: Label, separators: str | None) -> bool:
        """Return whether n/N stands where a position does: first in the line, behind the epoch, or before a bar."""
        is_context = find_context(self._gaps[at]) is not None
        is_first = not self._gaps[at].strip(separators) or KERAS_BAR.match(self._gaps[at + 2]) is not None
        return is_context or (is_first and not label.words)

    def _is_named_behind(self, at: int) -> bool:
        """Add a metric whose name stands behind the number, as in `901.33 avg loss, 0.001 rate`."""
        name = re.match(r"\s+([A-Za-z]\w*(?: \w+)?)\s*(?:[,;|]|$)", self._gaps[at + 1])
        is_last = at + 1 == len(self._tokens)
        before = self._gaps[at].rstrip()
        if (
            name is None
            or before[-1:] not in ("", ",", ";", "|", ":")
            or (not is_last and name[0].rstrip()[-1] not in ",;|")
        ):
            return False
        label = read_label("learning rate" if name[1] == "rate" else name[1])
        if label.metric is None or label.metric in POSITIONS:
            return False
        has_value = at > 0 and self._columns and self._columns[-1].index < at - 1 and "." in self._tokens[at - 1]
        if has_value and label.name.startswith("avg_"):  # 812.2, 901.3 avg loss
            self._read_metric(read_label(label.name.removeprefix("avg_")), at - 1)
        self._read_metric(label, at)
        return True

    def _is_step_before_loss(self, metric: LineNumber, at: int) -> bool:
        """Return whether the line is like `Train loss 0 41.208813`: a step, then the loss."""
        is_plain = self._gaps[at].strip() in ("", ":")
        step, value = self._tokens[metric.index], self._tokens[at]
        return is_plain and step.isdigit() and not value.isdigit()

    def _read_metric(self, label: Label, at: int) -> int:
        if self._is_extreme and not label.metric:
            return 1
        if label.is_part:
            split = find_context(label.name.replace("_", " ")) or self.context or ""
            self._columns.append(LineNumber(at, "part", f"{split} {label.name}".strip(), None))
            return 1
        metric, name = label.metric, label.name
        self.has_extreme = self.has_extreme or self._is_extreme
        if metric in LOSS_METRICS or (metric or "").endswith("/ppl"):
            if not label.names_split and self.context:
                name = f"{self.context}_{name}"
                metric = metric.replace("train/", "train/" if self.context == "train" else "val/") if metric else None
        elif self.context in ("val", "test") and metric in ("train/tokens", "perf/tokens_per_second"):
            return 1
        if all(column.name != name for column in self._columns):
            self._columns.append(LineNumber(at, "metric", name, metric, label.order))
        return 1


def _drop_bare_splits(columns: list[LineNumber], tokens: Sequence[str]) -> list[LineNumber]:
    """Leave out numbers after a bare `train`, `val`, `tr` or `va` that are no losses.

    These are whole ones, those beside named losses, and `tr` or `va` without the other.
    """
    is_bare = [column.metric in LOSS_METRICS and column.order == BARE_SPLIT_TIER for column in columns]
    bare_names = {column.name for column, bare in zip(columns, is_bare, strict=True) if bare}
    has_other = len(bare_names) == 1 and bare_names <= {"tr", "va"}
    has_other = has_other or any(
        not bare and (column.role == "part" or column.metric in LOSS_METRICS)
        for column, bare in zip(columns, is_bare, strict=True)
    )
    return [
        column
        for column, bare in zip(columns, is_bare, strict=True)
        if not bare or not (has_other or tokens[column.index].strip("+-").isdigit())
    ]
