"""Read ranges from the values of a command line, and write values so that any program can read them.

A range is a whole value in one of two forms; everything else is one value and reaches the program untouched:

1. A function of Hydra's sweep syntax, spaces allowed: `log(1e-5, 1e-3)`, `interval(0,0.5)`, `int(log(4,64))`,
   `range(1,10,2)`, `choice(a,'b c',"d,e")`, `tag(log,interval(1,9))`.
2. A list of plain words: `8,16,32`, `adamw,sgd,lion`. A list with spaces, quotes, brackets, braces, wildcards, `=` or
   empty words is one value: `{"a":1,"b":2}`, `[1,2]`, `Hello, world`, `type=bind,src=/x`, `*.csv,*.txt`.

Choices keep the text that was typed: of `choice(1e-5,007,True)` the program gets `1e-5`, `007` or `True`.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.config.errors import RANGE_FORMS
from harness.core.errors import ConfigError
from harness.sweep.hydra_internals import Range
from harness.sweep.space.range_syntax import parse_ranges

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
NUMBER_LIST = re.compile(rf"{NUMBER}(?:,{NUMBER})+")
PLAIN_LIST = re.compile(r"[\w.+\-/:@~%^#]+(?:,[\w.+\-/:@~%^#]+)+")
FUNCTION = r"(?:log|interval|range|choice|tag|sort|shuffle|glob)\s*\("
CAST = r"(?:int|float|str|bool)\s*\(\s*"  # makes a range of another one only
CALL = re.compile(rf"\s*(?:{CAST})*(?:{FUNCTION}|(?<=\()\s*{NUMBER}\s*,).*", re.IGNORECASE | re.DOTALL)
# Other libraries' names of the same ranges.
FOREIGN_CALL = re.compile(rf"\s*(?:\w+\.)?(\w*(?:uniform|randint))\(\s*({NUMBER})\s*,\s*({NUMBER})\s*\)\s*")
FIXED_POINT_RANGE = (1e-9, 1e16)
_KEY = "value"  # stands for the key while a range is parsed


@dataclass(frozen=True)
class ValueRange:
    """A range and, for choices, the value to search for each typed text."""

    distribution: Range
    choices: Mapping[str, Any] = field(default_factory=dict)

    def format_argument(self, value: Any) -> str:
        """Return a value as the program gets it: a choice as it was typed."""
        for text, choice in self.choices.items():
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return text
        if isinstance(self.distribution, IntDistribution):
            return format_argument(int(value))
        if isinstance(self.distribution, FloatDistribution) and (step := self.distribution.step):
            low = Decimal(str(self.distribution.low))
            n_steps = round((Decimal(str(value)) - low) / Decimal(str(step)))
            return format_argument(float(low + n_steps * Decimal(str(step))))  # 0.3, where 3 * 0.1 is slightly more
        return format_argument(value)

    def parse_argument(self, text: str) -> Any:
        """Return the value that a typed text stands for, which need not be in the range."""
        return self.choices.get(text, _parse_word(text))


def format_argument(value: Any) -> str:
    """Return a value in a form that argparse, JSON, YAML 1.1, awk, bc and shells read as the same number.

    Python's `1e-05` is a text in YAML 1.1 and an error in bc, so numbers have no exponent, or one behind a decimal
    point if they are tiny or huge.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float) or not math.isfinite(value):
        return json.dumps(value) if isinstance(value, dict | list) else str(value)
    smallest, largest = FIXED_POINT_RANGE
    if value and not smallest <= abs(value) < largest:
        digits, _, exponent = repr(value).partition("e")
        return f"{digits}e{exponent}" if "." in digits else f"{digits}.0e{exponent}"
    text = f"{Decimal(repr(value)):f}"
    return text if "." in text else f"{text}.0"


def is_range_function(text: str) -> bool:
    """Return whether a value is a call of a range function, right or wrong, and nothing else."""
    return bool(FOREIGN_CALL.fullmatch(text)) or (bool(CALL.fullmatch(text)) and _is_one_call(text))


def is_plain_list(text: str) -> bool:
    """Return whether a value is a list of plain words, separated by commas."""
    return bool(PLAIN_LIST.fullmatch(text))


def read_range(text: str) -> ValueRange | None:
    """Return the range that a value is, None if it is one value.

    Raises:
        ConfigError: If it is a wrong range; the message begins with the value.
    """
    if is_plain_list(text):
        return _read_choices(text, text.split(","))
    if not is_range_function(text):
        _check_parts(text)
        return None
    if foreign := FOREIGN_CALL.fullmatch(text):
        raise ConfigError(f"{text}: {foreign[1]} is no range here; write '{_translate_call(*foreign.groups())}'")
    if text.count("(") != text.count(")"):
        raise ConfigError(f"{text}: its parentheses do not match; {RANGE_FORMS}")
    if call := re.fullmatch(r"\s*choice\s*\((.*)\)\s*", text, re.DOTALL):
        return _read_choices(text, [_unquote(part) for part in _split_arguments(call[1])])
    try:
        found = parse_ranges([f"{_KEY}={text.strip()}"])[0]
    except ConfigError as error:
        raise ConfigError(_explain_range_error(text, str(error))) from error
    if not found:  # int(5)
        return None
    dist = found[_KEY]
    choices = {format_argument(choice): choice for choice in getattr(dist, "choices", ())}
    return ValueRange(dist, choices)


def _read_choices(text: str, parts: list[str]) -> ValueRange:
    if len(parts) < 2:
        only = parts[0] if parts and parts[0] else "VALUE"
        raise ConfigError(f"{text}: there is only one value, so nothing to search; write {only}")
    values = [_parse_word(part) for part in parts]
    if len({(isinstance(value, bool), value) for value in values}) < len(values):
        raise ConfigError(f"{text}: a value is listed twice; remove one")
    return ValueRange(CategoricalDistribution(values), dict(zip(parts, values, strict=True)))


def _parse_word(word: str) -> bool | int | float | str:
    """Return a typed word as Hydra would parse it, so that 1e-3 and 0.001 are the same value."""
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if re.fullmatch(r"[+-]?(?:0|[1-9]\d*)", word):
        return int(word)
    if re.fullmatch(NUMBER, word) and re.search(r"[.eE]", word) and math.isfinite(float(word)):
        return float(word)
    return word


def _check_parts(text: str) -> None:
    """Refuse a list that holds a range of numbers.

    Raises:
        ConfigError: If it does.
    """
    call = rf"(?:log|interval|range)\(\s*{NUMBER}\s*,[^()]*\)"
    if re.fullmatch(rf"(?:[^\s,()]+,\s*)+{call}(?:,.*)?|{call},.*", text):
        raise ConfigError(f"{text}: a range cannot be one value of a list; write one range, or list values only")


def _is_one_call(text: str) -> bool:
    """Return whether the parenthesis opened first closes at the end, or the parentheses do not match."""
    depth, text = 0, text.rstrip()
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == ")" and depth == 0:
            return not text[index + 1 :].strip(")")
    return True


def _split_arguments(text: str) -> list[str]:
    """Split the arguments of a call at its commas, but not inside quotes, brackets, braces and parentheses."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not parts[-1].strip():  # an apostrophe inside a word quotes nothing
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
        if character == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts] if text.strip() else []


def _unquote(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text


def _translate_call(name: str, low: str, high: str) -> str:
    if "int" in name or name.startswith("q"):
        return f"int(log({low},{high}))" if "log" in name else f"int(interval({low},{high}))"
    return f"log({low},{high})" if "log" in name else f"interval({low},{high})"


def _explain_range_error(text: str, message: str) -> str:
    """Return the message of the range parser about a value, without the key it was parsed with."""
    text = text.strip()
    if "is not an override" in message:
        return f"{text}: cannot be read as a range; {RANGE_FORMS}"
    if "mismatch type" in message:
        return f"{text}: its arguments must be numbers; {RANGE_FORMS}"
    problem = message.replace(f"{_KEY}={text}: ", "").replace(f"{_KEY}=", "").replace("; quote other parentheses", "")
    return f"{text}: {problem}"
