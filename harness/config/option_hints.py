"""Find the option of a group that was meant: by its spelling, by what other tools call it, or by a name or a number."""

import re
from collections.abc import Sequence
from typing import Any

from harness.core.errors import did_you_mean

SYNONYMS = {
    "data": {"headlines": "csv tsv", "jsonl": "json", "qa_markdown": "qa md markdown", "text": "txt"},
    "device": {"cuda": "gpu nvidia cuda:0", "mps": "metal apple"},
    "hydra/launcher": {"submitit_slurm": "slurm submitit"},
    "lora": {"all_linear": "true all", "none": "false no off"},
    "optimizer": {"adamw": "adamw_torch adamw_hf adamw_torch_fused fused_adamw"},
    "precision": {
        "bf16": "bfloat16 bf16-mixed bf16-true",
        "fp16": "16 float16 half 16-mixed 16-true",
        "fp32": "32 float32 full single 32-true no none float",
    },
    "pruner": {"halving": "asha sha successive_halving"},
    "schedule": {
        "constant": "constant_with_warmup none",
        "cosine": "cosine_annealing cosineannealinglr cosine_with_min_lr",
        "linear": "linear_with_warmup",
        "plateau": "reduce_lr_on_plateau reducelronplateau",
        "wsd": "warmup_stable_decay trapezoidal",
    },
    "start": {"resume": "continue", "scratch": "random none", "warm": "pretrained finetune"},
    "task": {"causal_lm": "clm lm", "masked_lm": "mlm"},
}
"""By group and option: what Hugging Face, Lightning, PyTorch, Optuna and Ray Tune call it."""

NUMBER_KEYS = {
    "batch": "batch.batch_size",
    "lora": "lora.rank",
    "loop": "loop.max_steps",
    "optimizer": "optimizer.lr",
    "tokenizer": "tokenizer.vocab_size",
}
"""By group: the key that a number is meant for."""

BY_NAME = {
    "data": "data=huggingface data.source.path=",
    "model": "model=hf model.name=",
    "tokenizer": "tokenizer=pretrained tokenizer.name=",
}
"""By group: the override that a folder or a hub name completes."""

PATH_REMEDIES = {
    "data": "for a file use {data}, or another of data=text|qa_markdown|jsonl|headlines",
    "experiment": "write the file's name without folder and .yaml; --config-dir names a folder of yours",
    "model": "for a folder or a hub name use {by_name}",
    "start": "for weights use start=warm start.source={path}, for a run start=resume start.run={path}",
    "tokenizer": "for a folder or a hub name use {by_name}",
}
"""By group: what to write where a path is given as the option."""


def choose_data(path: str) -> str:
    """Return the override for data of this path: a file by its suffix, or else a data set of the hub."""
    name = path.removesuffix(".gz")
    if re.search(r"\.(pth?|np[yz]|h5|hdf5?|mat)$", name):
        return f"data=pde_files data.train={path}"
    kinds = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "headlines", ".tsv": "headlines"}
    kind = next((kind for suffix, kind in kinds.items() if name.endswith(suffix)), "text")
    is_file = bool(re.search(r"^[./~]|/$|\.\w+$", name))
    return f"data={kind} data.source.path={path}" if is_file else f"{BY_NAME['data']}{path}"


def suggest_for_path(group: str, path: str) -> str:
    """Return what to write instead of a path as the option of a group; an empty string for other names and groups."""
    if group not in PATH_REMEDIES or not re.search(r"/|\.\w+$", path):
        return ""
    if group == "data" and (override := choose_data(path)).startswith("data=pde"):
        return f"for fields use {override}"
    by_name = f"{BY_NAME.get(group, '')}{path}"
    return PATH_REMEDIES[group].format(data=choose_data(path), by_name=by_name, path=path)


def find_option(group: str, value: str, options: Sequence[str]) -> str:
    """Return the option of the group that a text names, also as other tools call it; else an empty string."""
    if value in options:
        return value
    synonyms = SYNONYMS.get(group, {})
    return next((option for option, names in synonyms.items() if value.lower() in names.split()), "")


def suggest_option(group: str, value: str, options: Sequence[str]) -> str:
    """Return what to write instead of an option that does not exist, with what precedes it, or an empty string."""
    found = find_option(group, value, options)
    hint = f"; did you mean {found!r}?" if found else did_you_mean(value, options)
    is_named = group in ("model", "tokenizer") and not found
    return f"{hint or ';'} for a folder or a hub name use {BY_NAME[group]}{value}" if is_named else hint


def suggest_for_number(group: str, value: Any, options: Sequence[str]) -> str:
    """Return what to write instead of a number or a boolean as the option of a group: an option, or a key."""
    text = str(value).lower()
    if found := find_option(group, text, options):
        return f"; did you mean {found!r}?"
    key = NUMBER_KEYS.get(group)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"; for a number use its keys, such as {key}={value}" if key and is_number else ""
