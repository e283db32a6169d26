"""Find the places of a command line that may hold ranges, and name them. The rules are those of `template`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.sweep.programs.command.ranges import NUMBER_LIST, is_plain_list, is_range_function

# Options whose lists name devices or parts of one setting.
ONE_VALUE_NAMES = (
    "gpus", "gpu", "gpu_ids", "gpu_id", "devices", "device_ids", "visible_devices", "cuda_visible_devices",
    "hip_visible_devices", "nodelist", "hosts", "betas", "adam_betas", "target_modules", "lora_target_modules",
    "tags", "report_to",
)  # fmt: skip
# Options that take key=value words. Only known ones are left out with their last word: others may be flags.
SETTING_OPTIONS = (
    "set", "o", "opt", "opts", "option", "options", "override", "overrides", "cfg-options", "config-options",
    "config-override", "config-overrides", "hparam", "hparams", "hyperparameters", "param", "params", "parameter",
    "parameters", "P", "D", "e", "env",
)  # fmt: skip
TORCHRUN_MODULES = ("torch.distributed.run", "torch.distributed.launch")
OPTION = re.compile(r"--?[^\W\d][^\s=,(){}]*")
OPTION_WITH_VALUE = re.compile(r"(--?[^\W\d][^\s=,(){}]*=)(.*)", re.DOTALL)
ATTACHED_VALUE = re.compile(r"(-[^\W\d])(.+)", re.DOTALL)  # -r8,16
SETTING = re.compile(r"(\+{0,2}[^\W\d][\w.\-/@:]*=)(.*)", re.DOTALL)
LONG_OPTIONS = re.compile(r"--[^\W\d][\w\-.]*(?:,--[^\W\d][\w\-.]*)+")
SCRIPT = re.compile(r"[^=,(]*\.(?:py|sh|bash|zsh|fish|[rR]|jl|lua|pl|rb|js|mjs|ts|jar)")
PYTHON_FLAG = re.compile(r"-[bBdEiIOPqRsSuvx]+")


@dataclass(frozen=True)
class Slot:
    """A place of the command that may hold a range: a value, what stands before it in its word, and its key.

    `index` is that of its word, None for a variable. `option_index` is that of a word before it that is left out with
    it. `is_optional` says if the command is complete without it. `name` is what was typed.
    """

    key: str
    prefix: str
    text: str
    index: int | None = None
    option_index: int | None = None
    is_optional: bool = True
    name: str = ""


def find_slots(words: Sequence[str], variables: Mapping[str, str]) -> list[Slot]:
    """Return every value of a command and its variables, with distinct keys that Hydra's sweep syntax allows."""
    slots: dict[str, Slot] = {}
    for slot in _iterate_typed_slots(words, variables):
        allowed = re.sub(r"[^A-Za-z0-9_.\-]+", "_", slot.key)
        allowed = re.sub(r"\.(?=\.|$)", "", allowed) or "_"
        key, count = allowed, 1
        while key in slots:
            count += 1
            key = f"{allowed}_{count}"
        slots[key] = replace(slot, key=key, name=slot.key)
    return list(slots.values())


def find_script_index(words: Sequence[str]) -> int:
    """Return the index of the script or module that the program runs, or else of the program."""
    is_python = Path(words[0]).name.startswith("python")
    for index, word in enumerate(words):
        before = words[index - 1] if index else ""
        is_value = OPTION.fullmatch(before) and not (is_python and PYTHON_FLAG.fullmatch(before))
        is_module = before == "-m" and re.fullmatch(r"[^\W\d][\w.]*", word) and word not in TORCHRUN_MODULES
        if is_module or (SCRIPT.fullmatch(word) and not is_value):
            return index
    return 0


def is_one_value(slot: Slot, script_index: int) -> bool:
    """Return whether a list is one value because of its place or its name."""
    if not is_plain_list(slot.text) or LONG_OPTIONS.fullmatch(slot.text):
        return False
    name = slot.key.rpartition(".")[2].replace("-", "_").lower()
    return name in ONE_VALUE_NAMES or (slot.index is not None and slot.index <= script_index)


def _iterate_typed_slots(words: Sequence[str], variables: Mapping[str, str]) -> Iterator[Slot]:
    for name, text in variables.items():
        yield Slot(name, "", text)
    script_index = find_script_index(words)
    option: int | None = None  # the word whose value, if it has one, comes next
    for index, word in enumerate(words):
        if given := OPTION_WITH_VALUE.fullmatch(word) or SETTING.fullmatch(word):
            setting_option = _find_setting_option(words, index)
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
            yield Slot(words[option].lstrip("-"), "", word, index, option)
            option = option if _is_range(word) and _is_range_at(words, index + 1) else None
        else:
            place = index - script_index
            yield Slot(f"arg{place}" if place > 0 else f"word{index}", "", word, index, is_optional=False)


def _find_setting_option(words: Sequence[str], index: int) -> int | None:
    """Return the index of the option whose only value, or one of several, is the key=value word at `index`."""
    start = index
    while start > 0 and SETTING.fullmatch(words[start - 1]):
        start -= 1
    name = words[start - 1] if start > 0 else ""
    is_known = OPTION.fullmatch(name) and name.lstrip("-") in SETTING_OPTIONS
    return start - 1 if is_known and SETTING.fullmatch(words[index]) else None


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
