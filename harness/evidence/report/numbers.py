"""Numbers with their sources, and formulas over them that can be evaluated again."""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.formatting import format_confidence, format_count, format_duration, format_lr

Style = Literal[
    "plain", "whole", "count", "loss", "signed", "percent", "signed percent", "duration", "hours", "money", "lr", "p",
    "error", "confidence",
]  # fmt: skip
UNKNOWN_TEXT = "unknown"
ID_PATTERN = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*")
OPERATORS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
COMPARISONS: Mapping[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
}  # fmt: skip
FUNCTIONS: Mapping[str, Callable[..., Any]] = {"abs": abs, "min": min, "max": max, "sum": lambda *values: sum(values)}


@dataclass(frozen=True)
class Reading:
    """A value that was read: the run or file, the name of the value there, and the step if it has one."""

    place: str
    metric: str
    step: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Formula:
    """A value that follows from other numbers: an expression over their ids."""

    expression: str
    note: str = ""


@dataclass(frozen=True)
class Given:
    """A value that the user gave, such as a price."""

    option: str


NumberSource = Reading | Formula | Given


@dataclass(frozen=True)
class Number:
    """A number of the report; `value` is None where it is unknown. `style` decides how it is written."""

    id: str
    value: float | int | None
    unit: str
    source: NumberSource
    style: Style = "plain"

    @property
    def bare_text(self) -> str:
        """The number without a unit that is a word; % and the units of durations stay."""
        return format_styled(self.value, self.style)

    @property
    def text(self) -> str:
        """The number with its unit."""
        is_complete = self.value is None or not self.unit or self.style in ("percent", "signed percent", "duration")
        return self.bare_text if is_complete else f"{self.bare_text} {self.unit}"


def format_styled(value: float | int | None, style: Style) -> str:
    """Return a value in one of the styles."""
    if value is None:
        return UNKNOWN_TEXT
    if not math.isfinite(value):
        return "not finite" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
    match style:
        case "whole":
            return f"{value:,.0f}"
        case "count":
            return format_count(value)
        case "loss":
            return f"{value:#.5g}".rstrip(".")
        case "signed":
            return f"{value:+#.4g}".rstrip(".") if value else "0"
        case "percent":
            return f"{value:.1f}%"
        case "signed percent":
            return f"{value:+.1f}%"
        case "confidence":
            return format_confidence(value)
        case "duration":
            return format_duration(value)
        case "hours":
            return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
        case "money":
            return f"{value:,.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
        case "error":
            return f"{value:.2g}"
        case "lr":
            return format_lr(value)
        case "p":
            return f"{value:.2g}" if value >= 1e-4 else "below 0.0001"
    return f"{value:.6g}"


class NumberBook:
    """All numbers of a report by id; an id is used once, unless for the same number."""

    def __init__(self) -> None:
        self.numbers: dict[str, Number] = {}

    def read(self, id: str, value: float | int | None, unit: str, source: Reading | Given,
             style: Style = "plain") -> Number:  # fmt: skip
        """Add a number that was read or given."""
        return self._add(Number(id, value, unit, source, style))

    def compute(self, id: str, expression: str, unit: str, style: Style = "plain", note: str = "") -> Number:
        """Add the number that follows from a formula over the ids of others; None if one of them is unknown."""
        value = evaluate_formula(expression, {name: one.value for name, one in self.numbers.items()})
        return self._add(Number(id, value, unit, Formula(expression, note), style))

    def _add(self, number: Number) -> Number:
        if not ID_PATTERN.fullmatch(number.id):
            raise ValueError(f"{number.id!r}: not an id of a number")
        known = self.numbers.setdefault(number.id, number)
        if repr(known) != repr(number):  # NaN is not equal to itself
            raise ValueError(f"{number.id}: two numbers with one id, {known} and {number}")
        return known


def evaluate_formula(expression: str, values: Mapping[str, float | int | None]) -> float | None:
    """Return the value of an expression over `values`; None if one is unknown or the formula divides by zero.

    A comparison, or several joined by `and`, is true or false.

    Raises:
        ValueError: If it is no such expression, or names a number that there is not.
    """

    def evaluate(node: ast.AST) -> Any:
        match node:
            case ast.BoolOp(op=ast.And(), values=conditions):
                return all(list(map(evaluate, conditions)))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                return COMPARISONS[type(op)](evaluate(left), evaluate(right))
            case ast.Expression(body=body):
                return evaluate(body)
            case ast.Constant(value=value) if isinstance(value, int | float):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -evaluate(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](evaluate(left), evaluate(right))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](*map(evaluate, arguments))
            case ast.Name() | ast.Attribute():
                return values[ast.unparse(node)]
        raise ValueError(f"{expression!r}: not a formula over numbers")

    try:
        return evaluate(ast.parse(expression, mode="eval"))
    except KeyError as error:
        raise ValueError(f"{expression!r}: there is no number {error}") from error
    except SyntaxError as error:
        raise ValueError(f"{expression!r}: not a formula over numbers") from error
    except (TypeError, ZeroDivisionError):  # None of an unknown number
        return None
