"""The seed of a command: an option, key=value word or variable that each run sets."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import ConfigError
from harness.sweep.programs.command.slots import OPTION, Slot, find_script_index
from harness.sweep.programs.command.template import CommandTemplate

SEED = "seed"
ANY_SEED = "int(interval(0,4294967295))"  # stands in the command for the value that every run sets
WORD = re.compile(r"--?[^\W\d][^\s=,(){}]*=|\+{0,2}[^\W\d][\w.\-/@:]*=")  # --seed= or seed=
SHELL = re.compile(r"(?:ba|z|da|k)?sh")
FORMS = "--seed-flag --seed for an option, seed= for a key=value word, or SEED for a variable"


class SeededCommand(NamedTuple):
    """A command of which every run sets the seed, the key of which is `key`. `text` is what the seed was before."""

    template: CommandTemplate
    key: str
    text: str


def find_seed_slot(template: CommandTemplate, name: str = SEED) -> Slot | None:
    """Return the place of an option, word or variable with a name in any case; the last one that is not a variable."""
    found = [slot for slot in template.slots if slot.name.lower() == name.lower()]
    return found[-1] if found else None


def set_seed(template: CommandTemplate, flag: str | None, environment: Mapping[str, str] = os.environ) -> SeededCommand:
    """Return a command of which every run sets the seed by `flag`; by default by what the command has of this name.

    A value that the command has is replaced; an option that it has not is added where its arguments end.

    Raises:
        ConfigError: If the command takes no such seed.
    """
    if flag is None:
        slot = find_seed_slot(template)
        if slot is None:
            raise ConfigError(_explain_unknown_seed(template))
        return _replace_value(template, slot)
    if slot := _find_flag_slot(template, flag):
        return _replace_value(template, slot)
    if flag.isidentifier() and (flag.isupper() or flag in environment):
        added = replace(template, variables={**template.variables, flag: ANY_SEED})
        return SeededCommand(added, flag, "")
    if WORD.fullmatch(flag):
        return _add_words(template, flag, [f"{flag}{ANY_SEED}"])
    if OPTION.fullmatch(flag):
        return _add_words(template, flag, [flag, ANY_SEED])
    raise ConfigError(f"--seed-flag {flag}: the command has no such option or variable; write {FORMS}")


def _find_flag_slot(template: CommandTemplate, flag: str) -> Slot | None:
    """Return the last place that is typed as the flag, or else has its name or key."""
    name = flag.lstrip("-+").removesuffix("=")
    same = [slot for slot in template.slots if name in (slot.name, slot.key)]
    typed = [slot for slot in same if _describe_slot(template, slot) == flag]
    return (typed or same)[-1] if same else None


def _describe_slot(template: CommandTemplate, slot: Slot) -> str:
    """Return the flag that names a place: --seed, --seed=, seed= or SEED."""
    if slot.option_index is not None and not slot.prefix:
        return template.words[slot.option_index]
    return slot.prefix or slot.name


def _replace_value(template: CommandTemplate, slot: Slot) -> SeededCommand:
    words, variables = list(template.words), dict(template.variables)
    if slot.index is None:
        variables[slot.name] = ANY_SEED
    else:
        words[slot.index] = slot.prefix + ANY_SEED
    kept = tuple(name for name in template.one_value_names if name not in (slot.name, slot.key))
    return SeededCommand(CommandTemplate(tuple(words), variables, kept), slot.key, slot.text)


def _add_words(template: CommandTemplate, flag: str, added: list[str]) -> SeededCommand:
    """Return the command with words at its end, or before a `--` that ends the options of its script.

    Raises:
        ConfigError: If they would reach a shell and not the program that it starts.
    """
    words = list(template.words)
    for index, word in enumerate(words[1:], 1):
        if re.fullmatch(r"-[a-z]*c", word) and SHELL.fullmatch(Path(words[index - 1]).name):
            raise ConfigError(
                f"--seed-flag {flag}: {words[index - 1]} {word} would not pass it on to the program; if its line has "
                "$SEED, write --seed-flag SEED, and else run a new study with plateau sweep --env SEED=1"
            )
    script_index = find_script_index(words)
    end = words.index("--", script_index) if "--" in words[script_index:] else len(words)
    seeded = CommandTemplate((*words[:end], *added, *words[end:]), template.variables, template.one_value_names)
    last = end + len(added) - 1
    return SeededCommand(seeded, next(slot.key for slot in seeded.slots if slot.index == last), "")


def _explain_unknown_seed(template: CommandTemplate) -> str:
    similar = [_describe_slot(template, slot) for slot in template.slots if SEED in slot.name.lower()]
    hint = f"; it has {', '.join(similar)}" if similar else ""
    return f"--seed-flag: the command has no option called seed{hint}; say how the program takes it: {FORMS}"
