"""The output of a program, read piece by piece while it grows: text, JSON lines and tables in any order."""

import ast
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.importers.metric_aliases import POSITIONS, SUMMARY_KEY, canonical_name, name_order
from harness.importers.named_values.curves import Moment, NamedCurves
from harness.importers.named_values.line_plans import LinePlan, plan_line
from harness.importers.named_values.run_position import LinePosition, RunPosition
from harness.importers.named_values.settings import (
    MIN_REPEATS,
    are_settings,
    counts_something,
    cut_comment,
    is_measured,
)
from harness.importers.named_values.table_tracker import TableTracker
from harness.importers.named_values.value_names import ValueName, protect_digits
from harness.importers.numbers import TOKEN
from harness.importers.sources.decoding import plain_line
from harness.importers.tables.cells import WRAPPED, parse_cell
from harness.importers.tables.json_lines import flatten_object, parse_json
from harness.importers.text.lines import ALIGNMENT, BAR_PARTS, DIGITS, SPACES

LINE_END = re.compile(r"\r\n|[\r\n]|\x08{4,}")
MAX_LINE_CHARS, MAX_OBJECT_CHARS = 20_000, 4_000_000
MAX_PLANS = 20_000
MAX_OBJECT_LINES = 2_000
"""Limit of an object that was printed over several lines."""
HEADING_LINES = 3
"""A heading such as "Validation" holds for so many lines below it that do not say what they were measured on."""
ODD_NAN = re.compile(r"[-+]?1\.#(?:IND|QNAN|SNAN|NAN)\w*|\bnan\(\w*\)", re.IGNORECASE)
ODD_INF = re.compile(r"(?<=1)\.#INF\w*|\u221e", re.IGNORECASE)
GROUP_ROW = re.compile(r"\|\s*([\w.]+/)\s*\|\s*\|")
BARE_NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan|inf(?:inity)?)%?\s*", re.I)


class OutputReader:
    """Reads text as it arrives into curves. A line counts once its end has arrived."""

    def __init__(self) -> None:
        self.curves = NamedCurves()
        self._rest = ""
        self._is_skipping = False  # the rest of a line that is too long
        self._plans: dict[str, LinePlan] = {}
        self._plans_by_shape: dict[str, LinePlan] = {}
        self._position = RunPosition()
        self._tables = TableTracker()
        self._object_lines: list[str] = []
        self._depth = 0
        self._group = ""
        self._progress: list[tuple[ValueName, float]] = []  # of the last line of an evaluation that goes on
        self._progress_moment = Moment()
        self._heading, self._qualifier, self._heading_age = "", "", HEADING_LINES + 1
        self._has_begun = False  # something was measured; what was printed before are settings
        self._is_placed = False  # and had a position

    def feed(self, text: str) -> None:
        """Read more text."""
        *lines, self._rest = LINE_END.split(self._rest + text)
        if lines and self._is_skipping:
            self._is_skipping = False
            del lines[0]
        for line in lines:
            self._read_line(line)
        if len(self._rest) > MAX_OBJECT_CHARS:
            self._rest, self._is_skipping = "", True

    def finish(self) -> None:
        """Read the last line, although its end is missing, and an object that is cut off."""
        last, self._rest = self._rest, ""
        if not self._is_skipping:
            self._read_line(last)
        self._read_object_lines()
        self._flush_progress()

    def add_record(self, fields: Mapping[str, Any], may_be_setting: bool = False) -> None:
        """Add the numbers of an object or of a row, with the position that is among them."""
        line = LinePosition()
        found: list[tuple[ValueName, float]] = []
        orders: dict[str, int] = {}
        counts: dict[str, float] = {}  # such as `eval_steps`
        for name, cell in fields.items():
            value = parse_cell(cell)
            if value is None:
                continue
            role = canonical_name(name) if "/" not in name else None
            if role in POSITIONS:
                order = name_order(name)
                if role in ("step", "epoch") and counts_something(re.split(r"[/.]", name)[-1]):
                    counts[str(role)] = value
                elif order < orders.get(str(role), 10**9):
                    orders[str(role)] = order
                    setattr(line, str(role), value)
            else:
                found.append((name_field(name), value))
        is_placed = line.step is not None or line.epoch is not None
        is_setting = self._is_setting(found, is_placed and not are_settings(found), may_be_setting)
        if is_setting:
            line.step = line.epoch = None
            line.total_epochs = line.total_epochs or counts.get("epoch")
        elif not is_placed:
            line.step, line.epoch = counts.get("step"), counts.get("epoch")
        has_position = any(value is not None for value in (line.step, line.epoch, line.total_steps, line.total_epochs))
        moment = self._move_to(line, found) if has_position else self._position.latest
        self._add_values(found, moment, SUMMARY_KEY in fields, is_setting)

    def _is_setting(self, found: list[tuple[ValueName, float]], is_reading: bool, may_be_setting: bool = True) -> bool:
        """Return whether values are settings: before the first line with a metric, or with values at a position."""
        self._has_begun = self._has_begun or (bool(found) and is_reading) or is_measured(found)
        return may_be_setting and not self._has_begun

    def _move_to(self, line: LinePosition, found: list[tuple[ValueName, float]]) -> Moment:
        """Return where a line belongs; steps begin with the first line that has one and values."""
        is_placed = line.step is not None or line.epoch is not None
        if found and is_placed and not self._is_placed and not self._position.latest_is_used:
            self._position.begin_at(line)
        self._is_placed = self._is_placed or (bool(found) and is_placed)
        return self._position.move_to(line)

    def _read_line(self, raw: str) -> None:
        if len(raw) > MAX_LINE_CHARS and raw.lstrip()[:1] != "{":
            raw = raw[:MAX_LINE_CHARS].rpartition(" ")[0]  # without the number that is cut off
        line = plain_line(raw)
        if not line or line.isspace():
            return
        if self._object_lines:
            self._collect_object(line)
            return
        self._heading_age += 1
        self.curves.last_bare = None
        stripped = line.strip()
        if stripped[0] in "{[" and self._read_object(stripped):
            return
        if BARE_NUMBER.fullmatch(line) or WRAPPED.fullmatch(stripped):
            self.curves.last_bare = parse_cell(stripped.removesuffix("%"))
        if "#" in line or "(" in line or "\u221e" in line:
            line = ODD_INF.sub("inf", ODD_NAN.sub("nan", line)).replace("1inf", "inf")
        row = self._tables.read_row(line)
        if row is not None:
            self.add_record(row, self._tables.has_settings)
        else:
            self._read_text(line)

    def _flush_progress(self) -> None:
        """Add what the last line about an evaluation in progress has measured."""
        found, self._progress = self._progress, []
        self._add_values(found, self._progress_moment)

    def _read_object(self, line: str) -> bool:
        """Read a line that is an object, or the first one of an object over several lines; return whether it is."""
        if line[0] == "{" and line[-1] == "}":
            fields = parse_json(line)
            if fields is None and ("[" in line or line.count("{") > 1):
                fields = _parse_literal(line)
            if isinstance(fields, dict):
                self.add_record(flatten_object(fields), True)
                return True
        depth = line.count("{") - line.count("}")
        if depth > 0 and (line[0] == "{" or line in ("[", "[{")) and (len(line) < 3 or line[1:].lstrip()[:1] in "\"'"):
            self._object_lines, self._depth = [line], depth
            return True
        return False

    def _collect_object(self, line: str) -> None:
        self._object_lines.append(line)
        self._depth += line.count("{") - line.count("}")
        if self._depth <= 0 or len(self._object_lines) > MAX_OBJECT_LINES:
            self._read_object_lines()

    def _read_object_lines(self) -> None:
        lines, self._object_lines, self._depth = self._object_lines, [], 0
        if not lines:
            return
        text = "\n".join(lines)
        fields = parse_json(text)
        fields = fields if fields is not None else _parse_literal(text)
        if isinstance(fields, dict):
            self.add_record(flatten_object(fields), True)
            return
        for line in lines:
            self._read_text(line)

    def _read_text(self, line: str) -> None:
        line = protect_digits(cut_comment(line))
        parts = TOKEN.split(line)
        plan = self._find_plan(parts, line)
        if plan.is_heading:
            self._heading, self._qualifier, self._heading_age = plan.context or "", plan.qualifier, 0
        if group := GROUP_ROW.fullmatch(line.strip()):
            self._group = group[1]
        if not plan.slots and not plan.places:
            return
        tokens = parts[1::2]
        if self._progress and not plan.is_progress:
            self._flush_progress()
        found = plan.read_values(tokens)
        plan.n_lines += 1
        is_usual = plan.n_lines >= MIN_REPEATS or is_measured(found)
        line_position = plan.read_position(tokens, not is_usual)
        is_placed = line_position.step is not None or line_position.epoch is not None
        is_grouped = bool(self._group) and line.lstrip()[:1] == "|"
        is_setting = self._is_setting(found, is_placed or is_grouped, plan.n_lines < MIN_REPEATS)
        moment = self._move_to(line_position, found) if plan.places else self._position.latest
        if line.lstrip()[:1] == "|":
            found = [(self._add_group(name), value) for name, value in found]
        if plan.is_progress:
            self._progress, self._progress_moment = found, moment
            self._heading, self._qualifier, self._heading_age = plan.context or "", plan.qualifier, 0
            return
        if found and not plan.places and plan.context is None and self._heading_age <= HEADING_LINES:
            found = [(_add_context(name, self._heading, self._qualifier), value) for name, value in found]
        self._add_values(found, moment, SUMMARY_KEY in line, is_setting, plan)

    def _add_group(self, name: ValueName) -> ValueName:
        """Return the name of a row below `| rollout/ | |`, as Stable Baselines prints it."""
        return ValueName(f"{self._group}{name.label}", name.context, (name.label,)) if self._group else name

    def _find_plan(self, parts: list[str], line: str) -> LinePlan:
        form = "\0".join(parts[::2])
        plan = self._plans.get(form)
        if plan is not None:
            return plan
        gaps = parts[::2]
        shape = "\0".join(DIGITS.sub("0", ALIGNMENT.sub("", SPACES.sub(" ", BAR_PARTS.sub("#", gap)))) for gap in gaps)
        if len(self._plans) > MAX_PLANS:
            self._plans.clear()
            self._plans_by_shape.clear()
        plan = self._plans_by_shape.get(shape) if not DIGITS.search("".join(gaps)) else None
        if plan is None:
            plan = self._plans_by_shape[shape] = plan_line(gaps, parts[1::2], line)
        self._plans[form] = plan
        return plan

    def _add_values(
        self,
        found: list[tuple[ValueName, float]],
        moment: Moment,
        is_summary: bool = False,
        is_setting: bool = False,
        form: LinePlan | None = None,
    ) -> None:
        for name, value in found:
            curve = self.curves.find_or_add(name, is_summary, is_setting)
            if curve is None:
                continue
            if curve.is_setting and not is_setting and (form is None or curve.form is not form):
                curve.clear()
            curve.is_setting &= is_setting
            if form is not None and curve.form not in (None, form) and curve.ends_with(value, moment):
                continue  # another line says it again
            curve.form = form
            curve.add(value, moment)
        if found and not is_setting:
            self._position.note_value()


def name_field(name: str) -> ValueName:
    """Return the name of a field of an object or of a column of a table."""
    last = re.split(r"[/.]", name)[-1]
    return ValueName(name, None, (last,) if last != name else ())


def _add_context(name: ValueName, context: str, qualifier: str) -> ValueName:
    has_split = name.context is not None or bool(
        {"train", "val", "test", "eval", "valid"} & set(name.full.lower().split("_"))
    )
    context = name.context or "" if has_split else context
    return replace(name, context=context or None, qualifier=name.qualifier or qualifier)


def _parse_literal(text: str) -> Any:
    """Return a Python dictionary that was printed, None if it is none."""
    try:
        return ast.literal_eval(re.sub(r"\bnan\b", "'nan'", re.sub(r"\binf\b", "'inf'", text)))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
