"""The command line of a sweep: which of its values are ranges, and the command of each trial.

Rules, in this order; `ranges` says which values are ranges at all:

1. What is looked at: the words after `--`, the value of `--option=VALUE`, `--option VALUE`, `-r VALUE`, `-r8,16` and
   `key=VALUE` (also `+key=` and `++key=`), words of their own, and variables: those given with `--env NAME=VALUE` or
   before the program, and those of the environment whose value is a range function. A list there is one value.
2. A key is the option or variable without leading dashes or plus signs, otherwise as typed: `lr`, `max-lr`, `model.lr`,
   `LR`; characters other than ASCII letters, digits, `_`, `.` and `-` become `_`. A word of its own is `arg1`, `arg2`,
   ... by its place behind the script, or else behind the program; before it, `word0`, `word1`, ... A choice of options,
   `choice(--amp,)` or `--amp,--no-amp`, has the name of the first. A second `lr` is `lr_2`.
3. A list is one value, though a function is a range, if its option is one of slots.ONE_VALUE_NAMES (`--gpus 0,1`) or it
   stands before the script (`taskset -c 0,1 python train.py`). A key in `one_value_names` is one value in any case.
4. A trial without a value for a key leaves out the option with its name, so that the program's default holds; of
   `--set lr=RANGE` both words. A word of its own cannot be left out, except a choice of options.
5. `{out}` in any word or variable is the trial's folder, `{trial}` its number. All other braces are untouched, also
   `${out}` and `{{out}}`.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.credentials import hide_secret_words
from harness.core.errors import ConfigError, did_you_mean
from harness.sweep.hydra_internals import Range
from harness.sweep.programs.command.ranges import ValueRange, is_plain_list, is_range_function, read_range
from harness.sweep.programs.command.slots import Slot, find_script_index, find_slots, is_one_value

EXAMPLE = "python train.py --lr 'log(1e-5,1e-3)'"
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
RANGE_INSIDE = re.compile(r"[\s=](?:log|interval|int|range|choice)\([^()]+[,(]")
PLACEHOLDER = re.compile(r"(?<![{$])\{(out|trial)\}(?!\})")


@dataclass(frozen=True)
class CommandTemplate:
    """A command with ranges: its words, variables that it sets, and the keys whose values are no ranges.

    Raises:
        ConfigError: If a range is wrong, no value is a range, or a key in `one_value_names` does not exist.
    """

    words: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    one_value_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.words:
            raise ConfigError(f"plateau sweep: there is no command to run; write plateau sweep -- {EXAMPLE}")
        keys = [name for slot in self.slots for name in (slot.key, slot.name)]
        for name in self.one_value_names:
            if name not in keys:
                known = did_you_mean(name, keys)
                raise ConfigError(f"--one-value {name}: the command has no such option{known}")
        if not self.value_ranges:
            raise ConfigError(self._explain_no_range())

    @cached_property
    def slots(self) -> list[Slot]:
        """The places of the command that may hold a range, variables first."""
        return find_slots(self.words, self.variables)

    @cached_property
    def value_ranges(self) -> Mapping[str, ValueRange]:
        """The range of each searched key, in the order of the command, variables first."""
        found = {}
        for slot in self.slots:
            if self._is_kept(slot) or is_one_value(slot, find_script_index(self.words)):
                continue
            try:
                value_range = read_range(slot.text)
            except ConfigError as error:
                remedy = f"if it is one value, add --one-value {slot.key}"
                raise ConfigError(f"{slot.key}: {error} ({remedy})") from error
            if value_range:
                found[slot.key] = value_range
        return found

    @property
    def ranges(self) -> dict[str, Range]:
        """The distribution of each searched key."""
        return {key: value_range.distribution for key, value_range in self.value_ranges.items()}

    @cached_property
    def range_texts(self) -> dict[str, str]:
        """Each range as it was typed, by key."""
        return {slot.key: slot.text.strip() for slot in self.slots if slot.key in self.value_ranges}

    @cached_property
    def unsearched_lists(self) -> dict[str, str]:
        """Values that look like lists but are passed as one value, by key."""
        slots = [slot for slot in self.slots if slot.key not in self.value_ranges]
        return {slot.key: slot.text for slot in slots if is_plain_list(slot.text) or self._is_kept(slot)}

    @property
    def required_keys(self) -> list[str]:
        """Searched keys that every trial must have a value for, as they are words of their own."""
        return [slot.key for slot in self._searched_slots if not slot.is_optional]

    def render(
        self, values: Mapping[str, Any], folder: Path, environment: Mapping[str, str] | None = None
    ) -> tuple[list[str], dict[str, str]]:
        """Return the words and the whole environment of a trial.

        Args:
            values: By key. Searched keys without a value are left out.
            folder: The trial's, whose name is its number.
            environment: To which the command's variables are added; that of this process if it is None.

        Raises:
            ConfigError: If a key is not searched, or one that the command needs has no value.
        """
        arguments, variables = self._render_parts(values)
        folder = folder.absolute()  # the program may run elsewhere
        replaced = {name: _fill_placeholders(text, folder) for name, text in variables.items()}
        inherited = dict(os.environ if environment is None else environment)
        for name, text in self.variables.items():
            if inherited.get(name) == text:  # with its range
                del inherited[name]
        return [_fill_placeholders(word, folder) for word in arguments], inherited | replaced

    def format_command(self, values: Mapping[str, Any], folder: Path = Path("out")) -> str:
        """Return the command of a trial for a shell, with `folder` for `{out}` and without credentials."""
        arguments, variables = self._render_parts(values)
        filled = {name: _fill_placeholders(text, folder) for name, text in variables.items()}
        words = hide_secret_words(_fill_placeholders(word, folder) for word in arguments)
        return " ".join([*format_assignments(filled), shlex.join(words)])

    def format_range(self, key: str, text: str) -> str:
        """Return the words of the command of the sweep that search `key` over `text`, quoted for a shell."""
        slot = next(slot for slot in self._searched_slots if slot.key == key)
        prefix = f"{slot.name}=" if slot.index is None else slot.prefix
        option = [] if slot.option_index is None else [self.words[slot.option_index]]
        return " ".join([*option, f"{prefix}{shlex.quote(text)}"])

    @cached_property
    def settings(self) -> dict[str, str]:
        """The values of options and variables that are not searched, and of words behind the script, by key."""
        script_index = find_script_index(self.words)
        fixed = [slot for slot in self.slots if slot.key not in self.value_ranges]
        return {slot.key: slot.text for slot in fixed if slot.is_optional or (slot.index or 0) > script_index}

    @property
    def fixed_command(self) -> str:
        """The command with `{key}` for each searched value, without variables and credentials."""
        words = [shlex.quote(word) for word in hide_secret_words(self.words)]
        for slot in self._searched_slots:
            if slot.index is not None:
                words[slot.index] = f"{slot.prefix}{{{slot.key}}}"
        return " ".join(words)

    def fill_sources(self, sources: Sequence[str], folder: Path) -> tuple[str, ...]:
        """Return `sources` of a metric with the trial's folder for `{out}`."""
        return tuple(_fill_placeholders(source, folder) for source in sources)

    def to_json(self) -> dict[str, Any]:
        """Return this template as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "CommandTemplate":
        """Return the template that `to_json` has written."""
        return cls(tuple(data["words"]), dict(data["variables"]), tuple(data["one_value_names"]))

    @cached_property
    def _searched_slots(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.key in self.value_ranges]

    def _is_kept(self, slot: Slot) -> bool:
        return slot.key in self.one_value_names or slot.name in self.one_value_names

    def _render_parts(self, values: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """Return words and variables with placeholders."""
        for key in values:
            if key not in self.value_ranges:
                raise ConfigError(f"{key}: not searched by this sweep{did_you_mean(key, self.value_ranges)}")
        words: list[str | None] = list(self.words)
        variables: dict[str, str] = dict(self.variables)
        left_out = {slot.key for slot in self._searched_slots if slot.key not in values}
        for slot in self._searched_slots:
            if slot.key not in left_out:
                text = slot.prefix + self.value_ranges[slot.key].format_argument(values[slot.key])
                if slot.index is None:
                    variables[slot.name] = text
                else:
                    # An empty choice of options is no word; an empty value of an option is one.
                    words[slot.index] = text if text or slot.option_index is not None else None
            elif slot.index is None:
                del variables[slot.name]
            elif not slot.is_optional:
                raise ConfigError(f"{slot.key}: this word has no default; give it a value: {slot.key}=VALUE")
            else:
                words[slot.index] = None
        for option in {slot.option_index for slot in self._searched_slots} - {None}:
            assert option is not None
            own = [slot.index for slot in self.slots if slot.option_index == option]
            if all(words[index] is None for index in own if index is not None):
                words[option] = None
        return [word for word in words if word is not None], variables

    def _explain_no_range(self) -> str:
        text = f"nothing to search: no value of the command is a range; write {EXAMPLE}"
        for slot in self.slots:
            if self._is_kept(slot):
                return f"{text} ({slot.key} is kept as one value)"
            if is_one_value(slot, find_script_index(self.words)) or re.fullmatch(
                r"[\w.\-]+(?:,\s*[\w.\-]+)+", slot.text
            ):
                return f"{text} ({slot.key} is one value; to search its parts write 'choice({slot.text})')"
        if len(self.words) == 1 and " " in self.words[0]:
            return f"{text} (the command is one word: leave out the quotes around it, or write sh -c '...')"
        if inner := next(filter(RANGE_INSIDE.search, self.words), None):
            return f"{text} ({inner!r} has a range inside; write LR='log(1e-5,1e-3)' in front, and $LR there)"
        return text


def read_command(
    words: Sequence[str],
    variables: Mapping[str, str],
    environment: Mapping[str, str],
    one_value_names: Sequence[str] = (),
) -> CommandTemplate:
    """Return the template of a command and its variables.

    Args:
        words: The program and its arguments; variables may stand before it, as in a shell.
        variables: Given for this program, by name.
        environment: That of the process; its variables that hold a range function or a placeholder are added.
        one_value_names: Names of options or variables whose values are no ranges.

    Raises:
        ConfigError: If a range is wrong, no value is a range, or a name in `one_value_names` does not exist.
    """
    given = dict(variables)
    program = list(words)
    while program and (assignment := ASSIGNMENT.fullmatch(program[0])):  # LR=... python train.py, as in a shell
        given[assignment[1]] = assignment[2]
        del program[0]
    found = {name: text for name, text in environment.items() if is_range_function(text) or PLACEHOLDER.search(text)}
    names = tuple(dict.fromkeys(name.lstrip("-+") for name in one_value_names))
    return CommandTemplate(tuple(program), {**found, **given}, names)


def format_assignments(variables: Mapping[str, str]) -> list[str]:
    """Return variables as a shell sets them for a command, without credentials."""
    words = [hide_secret_words([f"{name}={text}"])[0] for name, text in variables.items()]
    return [f"{name}={shlex.quote(text)}" for name, _, text in (word.partition("=") for word in words)]


def _fill_placeholders(text: str, folder: Path) -> str:
    return PLACEHOLDER.sub(lambda found: str(folder) if found[1] == "out" else folder.name, text)
