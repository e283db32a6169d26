"""A fuzzed command line, and the tiny configuration that most of them start from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import yaml

from harness.core.paths import config_dir


@dataclass(frozen=True)
class FuzzLine:
    """A command line with what is done to a file before it.

    `command` is that of `plateau`. `names` are texts one of which a message with exit status 2 must contain; none: the
    message is free. `damage` is a file in the sandbox and what happens to it.
    """

    generator: str
    kind: str
    command: tuple[str, ...]
    names: tuple[str, ...] = ()
    damage: tuple[str, str] | None = None

    @property
    def is_costly(self) -> bool:
        """Return whether the line may take a second and more: a sweep of its own, big models, solved equations."""
        is_sweep = "-m" in self.command
        is_whole = is_sweep and (self.damage is not None or "sweeps=none" not in self.command)
        is_valid = is_sweep and any(word.lstrip("+~").startswith(HARMLESS_KEYS) for word in self.command)
        return is_whole or is_valid or bool(COSTLY & set(self.command))


HARMLESS_KEYS = ("hydra.run", "hydra.job", "hydra.sweep.", "hydra.callbacks", "hydra.launcher")
COSTLY = {"data=darcy", "tokenizer=pydoc", "model=smollm2", "verify-resume", "lr-range"}
CHOICES = {
    "start": "scratch", "lora": "none", "device": "cpu", "model": "gpt_tiny", "data": "text", "tokenizer": "bpe",
    "observers": "metrics_only",
}  # fmt: skip
OTHER_SYSTEMS: Mapping[str, dict[str, str | None]] = {
    "operator": {"task": "operator", "model": "fno", "data": "darcy", "tokenizer": None},
    "masked": {"task": "masked_lm", "model": "ltg_bert_xs", "tokenizer": "wordpiece"},
}
SYSTEM_OPTIONS = {
    ("task", "operator"): "operator", ("model", "fno"): "operator", ("data", "darcy"): "operator",
    ("data", "pde_files"): "operator", ("task", "masked_lm"): "masked", ("tokenizer", "wordpiece"): "masked",
    ("model", "ltg_bert_base"): "masked", ("model", "ltg_bert_small"): "masked", ("model", "ltg_bert_xs"): "masked",
}  # fmt: skip  # options that only work together with others
SMALL = {
    "model.layers": "1", "model.width": "16", "model.heads": "2", "model.hidden": "16", "model.modes": "4",
    "tokenizer.vocab_size": "60", "data.sequence_length": "32", "data.val_fraction": "0.2", "data.train": "8",
    "data.held_out": "4", "model.name": "inputs/hf",
    "data.resolution": "8", "data.finer": "16", "data.eval_batch_size": "4",
}  # fmt: skip  # applied where the chosen option has the key
DATA_FILES = {
    "huggingface": {"data.source.path": "inputs"},
    "text": {"data.source.path": "inputs/text.txt"},
    "qa_markdown": {"data.source.path": "inputs/qa.md"},
    "jsonl": {"data.source.path": "inputs/rows.jsonl"},
    "headlines": {"data.source.path": "inputs/titles.csv", "data.source.column": "title"},
    "pde_files": {"data.train": "inputs/fields.pt"},
}
SHORT = [
    "loop.max_steps=1", "loop.epochs=null", "loop.max_tokens=null", "loop.evals=1", "loop.eval_every=null",
    "batch.batch_size=4",
]  # fmt: skip
RANGE = "optimizer.lr=1e-3,1e-2"


def tiny_overrides(chosen: Mapping[str, str | None]) -> list[str]:
    """Return overrides of a run that takes one step of a tiny model, with the options `chosen`, by group."""
    system = next((SYSTEM_OPTIONS[pair] for pair in chosen.items() if pair in SYSTEM_OPTIONS), None)
    choices = {**CHOICES, **(OTHER_SYSTEMS[system] if system else {}), **chosen}
    overrides = [f"{group}={option}" for group, option in choices.items() if option is not None]
    known = {key for group, option in choices.items() if option for key in option_keys(group, option)}
    vocab_size = {} if system == "masked" else {"tokenizer.vocab_size": "300"}
    values = {**SMALL, **vocab_size, **DATA_FILES.get(choices["data"] or "", {})}
    overrides += [f"{key}={value}" for key, value in values.items() if key in known]
    has_fused = "optimizer.fused" in option_keys("optimizer", choices.get("optimizer") or "adamw")
    return [*overrides, *(["optimizer.fused=null"] if system == "operator" and has_fused else []), *SHORT]


@cache
def list_options() -> tuple[tuple[str, str], ...]:
    """Return every group with each of its options."""
    files = sorted(path.relative_to(config_dir()) for path in config_dir().rglob("*.yaml"))
    sweeps = sorted((config_dir() / "sweeps").glob("*.yaml"))  # a link, which rglob does not follow
    options = [(str(file.parent), file.stem) for file in files if file.parent.name not in ("", "common")]
    return tuple(dict.fromkeys([*options, *(("sweeps", path.stem) for path in sweeps)]))


@cache
def option_keys(group: str, option: str) -> tuple[str, ...]:
    """Return the dotted keys, sections included, that an option sets; with the group "" those of conf/config.yaml."""
    path = config_dir() / group / f"{option}.yaml"
    if not path.is_file():
        return ()
    text = path.read_text()
    content = yaml.safe_load(text) or {}
    prefix = "" if "@package _global_" in text or not group else f"{group.replace('/', '.')}."
    defaults = content.pop("defaults", [])
    keys = [f"{prefix}{key}" for key in _flatten(content)]
    inherited = [key for name in defaults if isinstance(name, str) for key in option_keys(group, name)]
    return tuple(dict.fromkeys(key for key in [*keys, *inherited] if re.fullmatch(r"[\w./-]+", key)))


def _flatten(node: Mapping[str, object]) -> list[str]:
    keys = []
    for name, child in node.items():
        inner = _flatten(child) if isinstance(child, dict) else []
        keys += [str(name), *(f"{name}.{key}" for key in inner)]
    return keys
