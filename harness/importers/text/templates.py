"""Line templates: the lines of a log that differ in their numbers only."""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.diagnosis.history import LOSS_METRICS
from harness.importers.foreign_words import translate_words
from harness.importers.numbers import has_ambiguous_comma, has_decimal_comma, parse_token
from harness.importers.text.columns import ColumnReader, LineNumber

MAX_TOKENS = 200
"""Numbers of one line that are looked at; a tensor that was printed has more."""
MAX_PROBED_VALUES = 1_000
"""Decimal points are looked for in so many values of each template."""
MAX_HEADING_CHARS = 120
PAIR = re.compile(r"\btrain\w*\s*\|\s*val\w*\s*\|?\s*$", re.IGNORECASE)
CODE = re.compile(
    r"^\s*(?:#|//|>>> |\"\"\"|'''|\w+\(\w+=|\w*(?:Error|Exception|Interrupt)\b|def \w+\(|class \w+[:(]|import \w"
    r"|from [\w.]+ import|return\b|print\(|for \w+ in "
    r"|(?:if|while|with)\b.*:$|assert |parser\.|@\w|elif |else:|try:|except|raise )"
    r"|\bself\.|\bargs\.|add_argument\(|[\"']store_true|\blambda "
)
COMMENTED = re.compile(r"^\s*+[A-Za-z_][\w.\[\]]*+\s*+=\s[^#]*\s#\s")
"""An assignment with a comment behind it."""
ASSIGNMENT = re.compile(r"^\s*+[A-Za-z_][\w.\[\]'\"]*+(?:\s*+:\s*+[\w.\[\]|, ]++)?\s*+=\s")
DICT_ASSIGNMENT = re.compile(r"^\s*[\"']?[A-Za-z_]\w*[\"']?\s*[:=]\s*+[-+\w.\"']++,?\s*+(?:#.*)?$")


@dataclass
class Template:
    """Lines of one form, with the values of their columns one line after the other in `values`."""

    gaps: tuple[str, ...]
    columns: list[LineNumber]
    context: str | None = None  # train, val or test: where its numbers without a split in their name were measured
    is_pair: bool = False  # a heading of two columns, for training and validation
    is_bar: bool = False
    description: str = ""  # of a bar
    is_code: bool = False
    is_assignment: bool = False
    first_line: int = 0
    last_line: int = 0
    is_extreme: bool = False  # it says the best value so far
    indexes: list[int] = field(default_factory=list)  # of the numbers that are kept
    counts: list[bool] = field(default_factory=list)  # which of these count something
    values: array = field(default_factory=lambda: array("d"))
    ambiguous: list[int] = field(default_factory=list)  # places in `values` of numbers such as 3,962
    decimals: set[int] = field(default_factory=set)  # indexes of numbers with a fraction

    def __len__(self) -> int:
        return len(self.values) // max(1, len(self.indexes))

    def column_values(self, index: int) -> list[float]:
        """Return the values of the number at `index` in the line."""
        return list(self.values[self.indexes.index(index) :: len(self.indexes)])

    def losses(self) -> list[LineNumber]:
        return [column for column in self.columns if column.role == "metric" and column.metric in LOSS_METRICS]

    def positions(self, role: str) -> list[LineNumber]:
        return [column for column in self.columns if column.role == role]


def read_template(gaps: Sequence[str], tokens: Sequence[str], line: str, number: int) -> Template | None:
    """Return the template of a line, None if nothing in it concerns a training."""
    gaps, tokens = [translate_words(gap) for gap in gaps[: MAX_TOKENS + 1]], tokens[:MAX_TOKENS]
    reader = ColumnReader(gaps, tokens)
    columns = reader.read()
    if not any(column.role in ("metric", "part", "step", "epoch") for column in columns):
        is_heading = reader.context is not None and len(line.strip()) <= MAX_HEADING_CHARS and not CODE.search(line)
        return Template(tuple(gaps), [], reader.context, is_pair=PAIR.search(line) is not None) if is_heading else None
    template = Template(tuple(gaps), columns, reader.context, first_line=number)
    template.is_bar, template.is_extreme = reader.is_bar, reader.has_extreme
    template.description = re.sub(r"[^a-z]+", " ", gaps[0].lower()).strip() if reader.is_bar else ""
    template.is_code = CODE.search(line) is not None or COMMENTED.match(line) is not None
    template.is_assignment = ASSIGNMENT.match(line) is not None or DICT_ASSIGNMENT.match(line) is not None
    kept = {column.index for column in columns} | {column.of for column in columns if column.of is not None}
    template.indexes = sorted(kept)
    metrics = {column.index for column in columns if column.role == "metric" and column.metric != "train/tokens"}
    template.counts = [index not in metrics for index in template.indexes]
    return template


def add_values(template: Template, tokens: Sequence[str]) -> tuple[int, int]:
    """Add the numbers of a line; return how many of them have decimal points, and how many decimal commas."""
    try:
        template.values.extend([float(tokens[index]) for index in template.indexes])
    except ValueError:
        return _add_unusual_values(template, tokens)
    if len(template.values) <= MAX_PROBED_VALUES:
        template.decimals.update(index for index in template.indexes if "." in tokens[index])
    return len(template.decimals), 0


def _add_unusual_values(template: Template, tokens: Sequence[str]) -> tuple[int, int]:
    points = commas = 0
    for index, is_count in zip(template.indexes, template.counts, strict=True):
        token = tokens[index]
        try:
            template.values.append(float(token))
        except ValueError:
            if has_ambiguous_comma(token):
                template.ambiguous.append(len(template.values))
            elif has_decimal_comma(token) and not is_count:
                commas += 1
                template.decimals.add(index)
            template.values.append(parse_token(token, is_count))
        if "." in token:
            points += 1
            template.decimals.add(index)
    return points, commas
