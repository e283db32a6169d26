"""Values belong to the option that they were chosen for.

An experiment chooses options and sets their values: `override /optimizer: adamw` and `optimizer: {lr: 1e-3}`. If the
command line, or an experiment that is built on it, chooses another optimizer, these values are left out, so that the
other optimizer has its own. Values that replace an alternative, such as `loop: {epochs: 3}`, set it to null.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override

from harness.config.alternatives import ALTERNATIVES, find_replaced_keys
from harness.config.hydra_internals import ConfigFile
from harness.config.overrides import format_value


@dataclass(frozen=True)
class LeftOut:
    """Values of an experiment, by dotted key, that were left out: for option `made_for` of `group`, not `chosen`."""

    group: str
    made_for: str
    chosen: str
    values: Mapping[str, Any]


def describe_left_out(parts: Iterable[LeftOut]) -> list[str]:
    """Return a notice for each set of values that was left out, with all options that it was left out for."""
    chosen: dict[tuple[str, str, str], list[str]] = {}
    for part in parts:
        values = " ".join(f"{key}={format_value(value)}" for key, value in part.values.items())
        options = chosen.setdefault((part.group, part.made_for, values), [])
        options += [part.chosen] * (part.chosen not in options)
    return [
        f"{group}={','.join(options)}: the experiment's values for {group}={made_for} are left out ({values})"
        for (group, made_for, values), options in chosen.items()
    ]


class FileRules:
    """Rules of one composition: values to leave out of each file, and alternatives that the file replaces.

    `adjust_file` is called for each file in the order in which they are merged.
    """

    def __init__(
        self,
        files: Sequence[ConfigFile],
        chosen: Mapping[str, str | None],
        default_choices: Mapping[str, str | None],
    ) -> None:
        """Prepare the rules of one composition.

        Args:
            files: The files that the defaults list of the primary configuration names.
            chosen: The option of each group.
            default_choices: The same without the options that the command line chooses, except that of `experiment`.
        """
        self._chosen, self._default_choices = chosen, default_choices
        self._merged: dict[str, set[str]] = {section: set() for section in ALTERNATIVES}
        self._choices: dict[str, dict[str, str | None]] = {}
        for file in files:
            self._collect_choices(file)
        for choices in self._choices.values():
            choices |= {group: option for group, option in default_choices.items() if group not in choices}
        self.left_out: dict[str, LeftOut] = {}
        """Values left out for options that overrides choose, by group."""

    def adjust_file(self, path: str, content: DictConfig) -> DictConfig:
        """Return the content of a file as it is to be merged; `content` itself is not changed."""
        dropped = self._find_other_options(path, content)
        replaced = self._find_replaced(content, dropped)
        if not dropped and not replaced:
            return content
        adjusted = deepcopy(content)
        with flag_override(adjusted, ["struct", "readonly"], False):
            for group, option in dropped.items():
                values = dict(_list_leaves(OmegaConf.to_container(adjusted.pop(group), resolve=False)))
                if self._chosen[group] != self._default_choices.get(group):  # else the experiment chose the option
                    earlier = self.left_out[group].values if group in self.left_out else {}
                    self.left_out[group] = LeftOut(group, str(option), str(self._chosen[group]), {**earlier, **values})
            for key in replaced:
                OmegaConf.update(adjusted, key, None)
        return adjusted

    def _collect_choices(self, file: ConfigFile) -> tuple[dict[str, str | None], list[str]]:
        """Note the options that each file was written for; return those of `file`, and the files it is made of.

        They are the options that the file chooses itself, or else the nearest file that is built on it.
        """
        choices: dict[str, str | None] = {}
        paths = [file.path]
        for part in file.parts:
            part_choices, part_paths = self._collect_choices(part)
            choices |= part_choices
            paths += part_paths
        choices |= file.choices
        for path in paths:
            known = self._choices.setdefault(path, {})
            known |= {group: option for group, option in choices.items() if group not in known}
        return choices, paths

    def _find_other_options(self, path: str, content: DictConfig) -> dict[str, str | None]:
        """Return the groups whose values in this file are for another option than the chosen one, with that option."""
        return {
            group: option
            for group, option in self._choices.get(path, {}).items()
            if group in content
            and group in self._chosen
            and option != self._chosen[group]
            and isinstance(content._get_node(group), DictConfig)
            and not path.startswith(f"{group}/")
        }

    def _find_replaced(self, content: DictConfig, dropped: Mapping[str, Any]) -> list[str]:
        """Return the keys of earlier files that the values in this file replace."""
        given: dict[str, Any] = {}
        for section in ALTERNATIVES:
            node = None if section in dropped else content._get_node(section)
            if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
                given |= {f"{section}.{name!s}": value for name, value in node.items_ex(resolve=False)}
        merged = {f"{section}.{name}" for section, names in self._merged.items() for name in names}
        for key in given:
            section, _, name = key.partition(".")
            self._merged[section].add(name)
        return sorted(find_replaced_keys(given) & merged)


def _list_leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, child in value.items():
        yield from _list_leaves(child, f"{key}.{name}" if key else str(name))
