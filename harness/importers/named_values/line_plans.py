"""Line plans: what the numbers of a line are, worked out once for all lines that differ in their numbers only."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.diagnosis.history import LOSS_METRICS
from harness.importers.named_values.run_position import LinePosition
from harness.importers.named_values.settings import counts_something
from harness.importers.named_values.value_labels import (
    find_qualifier,
    follows_awaiting,
    is_in_path,
    make_name,
    read_awaiting,
    read_name,
    read_name_behind,
)
from harness.importers.named_values.value_names import ValueName
from harness.importers.numbers import MISSING, is_whole, parse_token
from harness.importers.text.columns import ARROW, BRACKET_ORDER, SLASH, ColumnReader, LineNumber
from harness.importers.text.labels import find_context, read_split_pair, says_extreme
from harness.importers.text.templates import CODE

MAX_TOKENS = 200
POSITION_ROLES = ("step", "epoch", "total_steps", "total_epochs")
SETTINGS = re.compile(r"^\W*(?:\w*Namespace|\w*(?:Arguments|Args|Config|Params|Settings|Options))\(")
PLURAL_EPOCHS = re.compile(r"\bepochs\W*$", re.IGNORECASE)
SIZE = re.compile(r"\bsize\b", re.IGNORECASE)  # `model size (MB): 0.5`, `batch size 8`
MAX_HEADING_CHARS = 120
PART_START = re.compile(r"[|;]|\w\s*:")  # `| valid: loss`


@dataclass(slots=True)
class ValueSlot:
    """A value: its name, and the places of its number and of the N where it is n/N."""

    name: ValueName
    index: int
    of: int | None = None
    is_negative: bool = False  # its sign is part of the text before it, as in `loss_-2.9`


@dataclass(slots=True)
class LinePlan:
    """Places of the values and of the position in lines of one form."""

    slots: list[ValueSlot] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)  # (field of LinePosition, index of the number)
    is_bar: bool = False
    counts_run: bool = False  # the epoch stands behind n/N, as behind the bar of a whole run
    context: str | None = None
    is_progress: bool = False  # of an evaluation: n/N of its batches
    is_heading: bool = False  # it says what the lines below were measured on
    qualifier: str = ""  # of `context`, as in `EMA validation`
    counted: set[str] = field(default_factory=set)  # fields of `places` whose names are those of numbers of steps
    n_lines: int = 0  # that were read

    @property
    def has_position(self) -> bool:
        return bool(self.places)

    def read_position(self, tokens: Sequence[str], is_setting: bool) -> LinePosition:
        """Return the position of a line; a number of steps is none if it may be a setting."""
        line = LinePosition(is_bar=self.is_bar, counts_run=self.counts_run)
        for name, index in self.places:
            if is_setting and name in self.counted:
                continue
            value = parse_token(tokens[index], is_count=True)
            if value != MISSING and value == value:
                setattr(line, name, value)
        return line

    def read_values(self, tokens: Sequence[str]) -> list[tuple[ValueName, float]]:
        """Return the (name, value) pairs of a line. `9912/10000` is a ratio."""
        found = []
        for slot in self.slots:
            value = read_number(tokens[slot.index])
            if value is None or (tokens[slot.index][-1:] == "s" and slot.name.metric in LOSS_METRICS):
                continue  # no number, or seconds, as in `cost 278.3s`
            if slot.of is not None:
                of = read_number(tokens[slot.of])
                if of is not None and is_whole(value) and is_whole(of) and 0 < of >= value:
                    value /= of
            found.append((slot.name, -value if slot.is_negative else value))
        return found


def read_number(token: str) -> float | None:
    """Return the value of a token, None for dates, times and words."""
    try:
        return float(token)
    except ValueError:
        value = parse_token(token)
        return None if value == MISSING else value


def plan_line(gaps: Sequence[str], tokens: Sequence[str], line: str) -> LinePlan:
    """Return the plan of a line, from the text between its numbers."""
    gaps, tokens = gaps[: MAX_TOKENS + 1], tokens[:MAX_TOKENS]
    if SETTINGS.search(line) or (CODE.search(line) and not line.lstrip().startswith("#")):
        return LinePlan()
    reader = ColumnReader(gaps, tokens)
    columns = reader.read()
    plan = LinePlan(is_bar=reader.is_bar, context=reader.context)
    _choose_position(plan, columns, gaps)
    used = {index for _, index in plan.places}
    used |= {column.index for column in columns if column.role in (*POSITION_ROLES, "rank")}
    used |= {column.of for column in columns if column.of is not None}
    by_index = {column.index: column for column in columns}
    plan.qualifier = _NameReader(gaps, tokens, used, by_index).fill(plan)
    valued = {slot.index for slot in plan.slots}
    plan.places = [(role, index) for role, index in plan.places if index not in valued]
    is_short = len(line.strip()) <= MAX_HEADING_CHARS
    if plan.is_progress:
        _use_means(plan, columns)
    plan.is_heading = not plan.slots and is_short and (plan.context is not None or bool(plan.qualifier))
    return plan


def _choose_position(plan: LinePlan, columns: Sequence[LineNumber], gaps: Sequence[str]) -> None:
    """Set the places of the step and the epoch, of each the one that is named most specifically."""
    columns = [column for column in columns if not SIZE.search(gaps[column.index])]
    steps = [column for column in columns if column.role == "step"]
    if plan.context in ("val", "test"):
        named = [column for column in steps if column.order < BRACKET_ORDER]
        plan.is_progress = any(column.of is not None for column in steps) and not named
        columns = [column for column in columns if column not in steps or column in named]
    for role in ("step", "epoch"):
        found = [column for column in columns if column.role == role]
        chosen = min(found, key=lambda column: column.order, default=None)
        if chosen is None:
            continue
        if role == "epoch" and chosen.of is None and PLURAL_EPOCHS.search(gaps[chosen.index].rstrip(" :=")):
            plan.places.append(("total_epochs", chosen.index))
            continue
        plan.places.append((role, chosen.index))
        if chosen.of is None and counts_something(chosen.name):
            plan.counted.add(role)
        if chosen.of is not None:
            plan.places.append((f"{role}_of", chosen.of))
    indexes = dict(plan.places)
    plan.counts_run = indexes.get("step", math.inf) < indexes.get("epoch", -1)
    plan.places += [(column.role, column.index) for column in columns if column.role in ("total_steps", "total_epochs")]


def _use_means(plan: LinePlan, columns: Sequence[LineNumber]) -> None:
    """Take the mean so far, as in `Loss 0.31 (0.35)`, for the values of an evaluation."""
    means = {column.index for column in columns if column.role == "mean"}
    for slot in plan.slots:
        if slot.index + 1 in means:
            slot.index += 1


class _NameReader:
    """Names the numbers of a line from left to right."""

    def __init__(
        self, gaps: Sequence[str], tokens: Sequence[str], used: set[int], columns: dict[int, LineNumber]
    ) -> None:
        self._gaps, self._tokens, self._used, self._columns = gaps, tokens, used, columns
        self._extreme, self._is_whole_extreme = "", False
        self._awaiting = ""
        self._list_name: ValueName | None = None  # as in `Loss [6, 200]: 3.58`
        self._context: str | None = None
        self._qualifier, self._is_in_brackets = "", False

    def fill(self, plan: LinePlan) -> str:
        """Add the values to a plan; return the qualifier of its context."""
        seen: set[str] = set()
        for at in range(len(self._tokens)):
            gap = self._gaps[at]
            self._follow_context(gap)
            self._follow_extreme(gap, at)
            if ARROW.fullmatch(gap) and plan.slots and plan.slots[-1].index == at - 1:
                plan.slots[-1].index = at  # from the value before to that of this line
                continue
            name = self._read_name(at)
            self._awaiting = read_awaiting(gap)
            if self._awaiting and self._tokens[at].isdigit() and at + 1 < len(self._tokens):
                name = None if follows_awaiting(self._gaps[at + 1]) else name
            if name is None or is_in_path(gap, self._tokens[at]):
                continue
            if self._qualifier and not name.full.lower().startswith(self._qualifier.lower()):
                name = replace(name, qualifier=self._qualifier)
            if self._extreme and not says_extreme(name.full.replace("_", " ")):
                name = ValueName(f"{self._extreme} {name.label}", name.context)
            if name.key in seen:
                continue
            seen.add(name.key)
            of = at + 1 if at + 1 < len(self._tokens) and SLASH.match(self._gaps[at + 1]) else None
            plan.slots.append(ValueSlot(name, at, of, gap.endswith("_-")))
            if of is not None:
                self._used.add(of)
        self._follow_context(self._gaps[-1])
        return self._qualifier

    def _read_name(self, at: int) -> ValueName | None:
        gap, column = self._gaps[at], self._columns.get(at)
        if self._list_name and gap.startswith("]") and gap.rstrip()[-1:] in (":", "="):
            found, self._list_name = self._list_name, None
            return found
        if gap.rstrip().endswith("[") and self._gaps[at + 1].strip() == ",":
            self._list_name = read_name(gap, self._context, at == 0)
            return None
        if at in self._used:
            return None
        is_metric = column is not None and column.role == "metric"
        is_pair = bool(read_split_pair(gap)) or (at > 0 and not gap.strip(" /|,&"))
        if column is not None and is_metric and is_pair:
            return ValueName(column.name)
        if self._awaiting and follows_awaiting(gap):
            return make_name(self._awaiting, find_context(gap) or self._context, ())
        name = read_name(gap, self._context, at == 0)
        if name is None and column is not None and is_metric:
            return ValueName(column.name)
        if name is None and gap.rstrip()[-1:] in ("", ",", ";", "|", ":") and (at == 0 or at - 1 not in self._used):
            name = read_name_behind(self._gaps[at + 1], self._context, at + 1 == len(self._tokens))
        return name

    def _follow_context(self, gap: str) -> None:
        """Note the split that the numbers below were measured on, and of which model, as in `EMA valid: loss`."""
        context, qualifier = find_context(gap), find_qualifier(gap)
        self._context = context or self._context
        begins_part = context and PART_START.search(gap)
        if qualifier or begins_part or (self._is_in_brackets and gap.lstrip()[:1] in (")", "]")):
            self._qualifier = qualifier
            self._is_in_brackets = len(re.findall(r"[(\[]", gap)) > len(re.findall(r"[)\]]", gap))

    def _follow_extreme(self, gap: str, at: int) -> None:
        """Note whether the number, or at the start of a line all of it, is the best one so far or a target."""
        if "|" in gap or ";" in gap or not self._is_whole_extreme:
            self._extreme, self._is_whole_extreme = "", False
        if says_extreme(gap):
            self._extreme, self._is_whole_extreme = "best", at == 0
