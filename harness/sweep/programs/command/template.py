"""The command line of a sweep: which of its values are ranges, and the command of each trial.

Rules, in this order; `ranges` says which values are ranges at all:

1. What is looked at: the words after `--`, the value of `--option=VALUE`, `--option VALUE`, `-r VALUE`, `-r8,16` and
   `key=VALUE` (also `+key=` and `++key=`), words of their own, and variables: those given with `--env NAME=VALUE`, and
   those of the environment whose value is a range function. A list in the environment is one value.
2. A key is the option or variable without leading dashes or plus signs, otherwise as typed: `lr`, `max-lr`, `model.lr`,
   `LR`. A word of its own is `arg1`, `arg2`, ... by its place behind the script, or else behind the program. A choice
   of options, `choice(--amp,)` or `--amp,--no-amp`, has the name of the first. A second `lr` is `lr_2`.
3. A list is one value, though a function is a range, if its option is one of ONE_VALUE_NAMES (`--gpus 0,1`) or it
   stands before the script (`taskset -c 0,1 python train.py`). A key in `keep` is one value in any case.
4. A trial without a value for a key leaves out the option with its name, so that the program's default holds; of
   `--set lr=RANGE` both words. A word of its own cannot be left out, except a choice of options.
5. `{out}` in any word or variable is the trial's folder, `{trial}` its number. All other braces are untouched, also
   `${out}` and `{{out}}`.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError, did_you_mean
from harness.sweep.hydra_internals import Range
from harness.sweep.programs.command.ranges import (
    NUMBER_LIST,
    ValueRange,
    is_plain_list,
    is_range_function,
    read_range,
)

EXAMPLE = "python train.py --lr 'log(1e-5,1e-3)'"
# Options whose lists name devices, or that take several numbers at once.
ONE_VALUE_NAMES = (
    "gpus", "gpu", "gpu_ids", "gpu_id", "devices", "device_ids", "visible_devices", "cuda_visible_devices",
    "hip_visible_devices", "nodelist", "hosts", "betas", "adam_betas",
)  # fmt: skip
# Options that take key=value words. Only known ones are left out with their last word: others may be flags.
SETTING_OPTIONS = (
    "set", "o", "opt", "opts", "option", "options", "override", "overrides", "cfg-options", "config-options",
    "config-override", "config-overrides", "hparam", "hparams", "hyperparameters", "param", "params", "parameter",
    "parameters", "P", "D", "e", "env",
)  # fmt: skip
OPTION = re.compile(r"--?[^\W\d][^\s=,(){}]*")
OPTION_WITH_VALUE = re.compile(r"(--?[^\W\d][^\s=,(){}]*=)(.*)", re.DOTALL)
ATTACHED_VALUE = re.compile(r"(-[^\W\d])(.+)", re.DOTALL)  # -r8,16
SETTING = re.compile(r"(\+{0,2}[^\W\d][\w.\-/@:]*=)(.*)", re.DOTALL)
LONG_OPTIONS = re.compile(r"--[^\W\d][\w\-.]*(?:,--[^\W\d][\w\-.]*)+")
SCRIPT = re.compile(r"[^=,(]*\.(?:py|sh|bash|zsh|fish|[rR]|jl|lua|pl|rb|js|mjs|ts|jar)")
PYTHON_FLAG = re.compile(r"-[bBdEiIOPqRsSuvx]+")
PLACEHOLDER = re.compile(r"(?<![{$])\{(out|trial)\}(?!\})")


@dataclass(frozen=True)
class Slot:
    """A place of the command that may hold a range: a value, what stands before it in its word, and its key.

    `index` is that of its word, None for a variable. `option_index` is that of a word before it that is left out with
    it. `is_optional` says if the command is complete without it. `name` is the key before it was made distinct.
    """

    key: str
    prefix: str
    text: str
    index: int | None = None
    option_index: int | None = None
    is_optional: bool = True
    name: str = ""


@dataclass(frozen=True)
class CommandTemplate:
    """A command with ranges: its words, variables that it sets, and the keys whose values are no ranges.

    Raises:
        ConfigError: If a range is wrong, no value is a range, or a key in `keep` does not exist.
    """

    words: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.words:
            raise ConfigError(f"plateau sweep: there is no command to run; write plateau sweep -- {EXAMPLE}")
        keys = [name for slot in self._slots for name in (slot.key, slot.name)]
        for name in self.keep:
            if name not in keys:
                known = did_you_mean(name, keys)
                raise ConfigError(f"--keep {name}: the command has no such option{known}")
        if not self.value_ranges:
            raise ConfigError(self._explain_no_range())

    @cached_property
    def value_ranges(self) -> Mapping[str, ValueRange]:
        """The range of each searched key, in the order of the command, variables first."""
        found = {}
        for slot in self._slots:
            if self._is_kept(slot) or self._is_one_value(slot):
                continue
            try:
                value_range = read_range(slot.text)
            except ConfigError as error:
                remedy = f"if it is one value, add --keep {slot.key}"
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
        return {slot.key: slot.text.strip() for slot in self._slots if slot.key in self.value_ranges}

    @cached_property
    def unsearched_lists(self) -> dict[str, str]:
        """Values that look like lists but are passed as one value, by key."""
        slots = [slot for slot in self._slots if slot.key not in self.value_ranges]
        return {slot.key: slot.text for slot in slots if is_plain_list(slot.text) or self._is_kept(slot)}

    @property
    def required_keys(self) -> list[str]:
        """Searched keys that every trial must have a value for, as they are words of their own."""
        return [slot.key for slot in self._searched_slots if not slot.is_optional]

    @property
    def has_default_command(self) -> bool:
        """True if the command can run without a value for any searched key."""
        return not self.required_keys

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
        replaced = {name: _fill_placeholders(text, folder) for name, text in variables.items()}
        inherited = dict(os.environ if environment is None else environment)
        for name, text in self.variables.items():
            if inherited.get(name) == text:  # with its range
                del inherited[name]
        return [_fill_placeholders(word, folder) for word in arguments], inherited | replaced

    def format_command(self, values: Mapping[str, Any], folder: Path = Path("out")) -> str:
        """Return the command of a trial for a shell, with `folder` for `{out}`."""
        arguments, variables = self._render_parts(values)
        assignments = [f"{name}={shlex.quote(_fill_placeholders(text, folder))}" for name, text in variables.items()]
        return " ".join([*assignments, shlex.join(_fill_placeholders(word, folder) for word in arguments)])

    def to_json(self) -> dict[str, Any]:
        """Return this template as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "CommandTemplate":
        """Return the template that `to_json` has written."""
        return cls(tuple(data["words"]), dict(data["variables"]), tuple(data["keep"]))

    @cached_property
    def _searched_slots(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.key in self.value_ranges]

    @cached_property
    def _script_index(self) -> int:
        """The index of the script or module that the program runs, or else of the program."""
        is_python = Path(self.words[0]).name.startswith("python")
        for index, word in enumerate(self.words):
            before = self.words[index - 1] if index else ""
            is_value = OPTION.fullmatch(before) and not (is_python and PYTHON_FLAG.fullmatch(before))
            is_module = before == "-m" and re.fullmatch(r"[^\W\d][\w.]*", word)
            if is_module or (SCRIPT.fullmatch(word) and not is_value):
                return index
        return 0

    def _is_kept(self, slot: Slot) -> bool:
        return slot.key in self.keep or slot.name in self.keep

    def _is_one_value(self, slot: Slot) -> bool:
        if not is_plain_list(slot.text) or LONG_OPTIONS.fullmatch(slot.text):
            return False
        name = slot.key.rpartition(".")[2].replace("-", "_").lower()
        return name in ONE_VALUE_NAMES or (slot.index is not None and slot.index <= self._script_index)

    @cached_property
    def _slots(self) -> list[Slot]:
        """Every value of the command and its variables, with distinct keys."""
        slots: dict[str, Slot] = {}
        for slot in self._iterate_typed_slots():
            key, count = slot.key, 1
            while key in slots:
                count += 1
                key = f"{slot.key}_{count}"
            slots[key] = replace(slot, key=key, name=slot.key)
        return list(slots.values())

    def _iterate_typed_slots(self) -> Iterator[Slot]:
        for name, text in self.variables.items():
            yield Slot(name, "", text)
        option: int | None = None  # the word whose value, if it has one, comes next
        for index, word in enumerate(self.words):
            if given := OPTION_WITH_VALUE.fullmatch(word) or SETTING.fullmatch(word):
                setting_option = self._find_setting_option(index)
                yield Slot(given[1].lstrip("-+")[:-1], given[1], given[2], index, setting_option)
                option = None
            elif flag := _first_option(word):
                yield Slot(flag.lstrip("-"), "", word, index)
                option = None
            elif OPTION.fullmatch(word):
                option = index
            elif parts := _split_attached(word):
                yield Slot(parts[0].lstrip("-"), parts[0], parts[1], index)
                option = None
            elif word.startswith("-") and not NUMBER_LIST.fullmatch(word):  # -Wl,-rpath,x
                option = None
            elif option is not None:
                yield Slot(self.words[option].lstrip("-"), "", word, index, option)
                option = option if _is_range(word) and _is_range_at(self.words, index + 1) else None
            else:
                place = index - self._script_index
                yield Slot(f"arg{place if place > 0 else index}", "", word, index, is_optional=False)

    def _find_setting_option(self, index: int) -> int | None:
        """Return the index of the option whose only value, or one of several, is the key=value word at `index`."""
        start = index
        while start > 0 and SETTING.fullmatch(self.words[start - 1]):
            start -= 1
        name = self.words[start - 1] if start > 0 else ""
        is_known = OPTION.fullmatch(name) and name.lstrip("-") in SETTING_OPTIONS
        return start - 1 if is_known and SETTING.fullmatch(self.words[index]) else None

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
                    variables[slot.key] = text
                else:
                    # An empty choice of options is no word; an empty value of an option is one.
                    words[slot.index] = text if text or slot.option_index is not None else None
            elif slot.index is None:
                del variables[slot.key]
            elif not slot.is_optional:
                raise ConfigError(f"{slot.key}: this word has no default; give it a value: {slot.key}=VALUE")
            else:
                words[slot.index] = None
        for option in {slot.option_index for slot in self._searched_slots} - {None}:
            assert option is not None
            own = [slot.index for slot in self._slots if slot.option_index == option]
            if all(words[index] is None for index in own if index is not None):
                words[option] = None
        return [word for word in words if word is not None], variables

    def _explain_no_range(self) -> str:
        text = f"nothing to search: no value of the command is a range; write {EXAMPLE}"
        for slot in self._slots:
            if self._is_kept(slot):
                return f"{text} ({slot.key} is kept as one value)"
            if self._is_one_value(slot) or re.fullmatch(r"[\w.\-]+(?:,\s*[\w.\-]+)+", slot.text):
                return f"{text} ({slot.key} is one value; to search its parts write 'choice({slot.text})')"
        return text


def read_command(
    words: Sequence[str], variables: Mapping[str, str], environment: Mapping[str, str], keep: Sequence[str] = ()
) -> CommandTemplate:
    """Return the template of a command and its variables.

    Args:
        words: The program and its arguments.
        variables: Given for this program, by name.
        environment: That of the process; its variables that hold a range function or a placeholder are added.
        keep: Names of options or variables whose values are no ranges.

    Raises:
        ConfigError: If a range is wrong, no value is a range, or a name in `keep` does not exist.
    """
    found = {name: text for name, text in environment.items() if is_range_function(text) or PLACEHOLDER.search(text)}
    names = tuple(dict.fromkeys(name.lstrip("-+") for name in keep))
    return CommandTemplate(tuple(words), {**found, **variables}, names)


def _first_option(word: str) -> str:
    """Return the first option of a choice of options, as in `choice(--amp,)`, or an empty string."""
    if LONG_OPTIONS.fullmatch(word):
        return word.partition(",")[0]
    choices = re.fullmatch(r"\s*choice\((.*)\)\s*", word)
    parts = [part.strip() for part in choices[1].split(",")] if choices else []
    given = [part for part in parts if part]
    return given[0] if given and all(OPTION.fullmatch(part.partition("=")[0]) for part in given) else ""


def _split_attached(word: str) -> tuple[str, str] | None:
    """Return option and value of `-r8,16` or `-rlog(4,64)`, None for another word."""
    parts = ATTACHED_VALUE.fullmatch(word)
    is_attached = parts and (NUMBER_LIST.fullmatch(parts[2]) or is_range_function(parts[2]))
    return (parts[1], parts[2]) if parts and is_attached else None


def _is_range(word: str) -> bool:
    return is_plain_list(word) or is_range_function(word)


def _is_range_at(words: Sequence[str], index: int) -> bool:
    return index < len(words) and _is_range(words[index]) and not _first_option(words[index])


def _fill_placeholders(text: str, folder: Path) -> str:
    return PLACEHOLDER.sub(lambda found: str(folder) if found[1] == "out" else folder.name, text)
