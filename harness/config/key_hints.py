"""Find the key that was meant: by its last part, by what other tools call it, or by a similar name."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from harness.config.group_options import list_options, list_trusted_options, read_options
from harness.config.option_hints import BY_NAME, choose_data, find_option
from harness.config.schema import list_value_types

SYNONYMS = {
    "optimizer.lr": "learning_rate learningrate base_lr peak_lr max_lr init_lr",
    "optimizer.eps": "adam_epsilon epsilon adam_eps",
    "optimizer.weight_decay": "wd l2",
    "optimizer=OPTION": "optim opt optimiser optimizer_type optimizer_name",
    "schedule=OPTION": "lr_scheduler_type scheduler lr_scheduler lr_schedule sched decay_lr",
    "schedule.warmup_steps": "num_warmup_steps warmup_iters n_warmup_steps",
    "schedule.warmup_ratio": "warmup_fraction warmup_proportion",
    "schedule.final_ratio": "min_lr_ratio",
    "batch.batch_size": "bs train_batch_size global_batch_size effective_batch_size",
    "batch.micro_batch_size": "per_device_train_batch_size micro_batch device_batch_size per_gpu_batch_size",
    "data.eval_batch_size": "per_device_eval_batch_size val_batch_size",
    "data.sequence_length": "block_size max_seq_length max_length max_seq_len seq_len seq_length context_length "
    "max_position_embeddings n_ctx cutoff_len",
    "data.val_fraction": "validation_split val_split test_size val_size validation_fraction val_ratio",
    "data=text data.source.path=FILE": "data_path dataset_path train_file data_file data_dir dataset_dir "
    "input_file file",
    "data=OPTION": "dataset dataset_name train_data",
    "loop.max_steps": "max_iters max_iter num_iterations iterations n_steps num_steps steps "
    "num_train_steps total_steps",
    "loop.epochs": "num_train_epochs num_epochs max_epochs n_epochs epoch nepochs",
    "loop.eval_every": "eval_steps eval_interval eval_freq eval_frequency val_every",
    "loop.log_every": "logging_steps log_interval log_every_n_steps log_freq",
    "loop.save_every": "save_steps save_interval every_n_train_steps checkpoint_every ckpt_every",
    "loop.keep_checkpoints": "save_total_limit",
    "loop.grad_clip": "max_grad_norm gradient_clip_val clip_grad_norm gradient_clip clip_grad clip grad_norm_clip "
    "gradient_clipping max_norm",
    "loop.patience": "early_stopping_patience",
    "lora.rank": "r lora_r lora_rank lora_dim",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.rslora": "use_rslora",
    "lora.dora": "use_dora",
    "lora.target_modules": "lora_target lora_target_modules",
    "model=hf model.name=NAME": "model_name_or_path model_name pretrained_model_name_or_path base_model "
    "pretrained model_id",
    "model.layers": "n_layer n_layers num_layers num_hidden_layers depth",
    "model.heads": "n_head n_heads num_heads num_attention_heads",
    "model.width": "n_embd hidden_size d_model dim embed_dim hidden_dim",
    "model.gradient_checkpointing": "activation_checkpointing",
    "tokenizer.vocab_size": "vocabulary_size n_vocab",
    "precision=OPTION": "dtype torch_dtype mixed_precision amp",
    "device=OPTION": "accelerator",
    "start=resume start.run=RUN": "resume_from_checkpoint resume ckpt_path checkpoint resume_from load_from",
    "seed": "random_seed random_state manual_seed data_seed",
    "name": "run_name exp_name job_name",
    "output_dir": "out_dir save_dir default_root_dir log_dir logging_dir outdir output",
    "compile": "torch_compile use_compile",
    "tracking.experiment": "experiment_name mlflow_experiment wandb_project project project_name",
    "tracking.uri": "mlflow_uri tracking_uri mlflow_tracking_uri",
    "sweep.n_trials": "trials num_trials max_trials num_samples",
    "sweep.n_jobs": "workers n_workers jobs parallel",
    "sweep.devices_per_trial": "gpus_per_trial n_gpus num_gpus nproc_per_node",
    "sweep.study": "study_name",
    "sweep.max_seconds": "timeout time_limit",
    "sweep.objectives": "objective metric metric_for_best_model monitor",
    "sweeps=OPTION": "search_space space",
    "hydra/sweeper/sampler=OPTION": "sampler",
}
"""By an override, or a key to which the value is given: what Hugging Face's TrainingArguments and LoraConfig,
Lightning's Trainer, nanoGPT's train.py, Optuna, Ray Tune and common scripts call the same setting."""

RELATED = {
    "batch.micro_batch_size": "gradient_accumulation_steps accumulate_grad_batches grad_accum accum_steps "
    "gradient_accumulation",
    "batch.batch_size": "total_batch_size",
    "data.val_fraction": "split_ratio",
    "loop.eval_every": "val_check_interval",
    "loop.keep_checkpoints": "save_top_k",
    "loop.patience": "early_stopping",
    "optimizer.betas": "adam_beta1 adam_beta2 beta1 beta2",
    "schedule.final_ratio": "min_lr final_lr lr_min eta_min",
    "sweep.max_seconds": "max_time",
}
"""By the key that serves the same purpose: names whose values mean something else, so that only the key is named."""

FLAGS = {
    "fp16 half": ("precision=fp16", "precision=fp32"),
    "bf16 bfloat16": ("precision=bf16", "precision=fp32"),
    "gpu cuda gpus use_cuda": ("device=cuda", "device=cpu"),
    "no_cuda use_cpu cpu": ("device=cpu", "device=cuda"),
}
"""By names of flags: the override for true, and for false."""

OVERRIDE_OF = {synonym: override for override, names in SYNONYMS.items() for synonym in names.split()}
RELATED_KEY_OF = {synonym: key for key, names in RELATED.items() for synonym in names.split()}
FLAG_OF = {flag: overrides for names, overrides in FLAGS.items() for flag in names.split()}
PLACEHOLDERS = ("FILE", "NAME", "RUN", "OPTION")
"""Ends of overrides that stand for the value."""
UNUSUAL_SECTIONS = ("thresholds", "observers", "hydra", "locked", "unlock")
MAX_SUGGESTIONS = 3


def suggest_overrides(key: str, value: str, known: Mapping[str, Any], arguments: Sequence[str] = ()) -> list[str]:
    """Return up to three overrides that `key=value` may stand for, the most likely first.

    Where the value means something else, or is of another type, it is only a key.

    Args:
        key: A dotted key that does not exist.
        value: May be empty.
        known: The values of the configuration by dotted key.
        arguments: Overrides that may name more folders of options.
    """
    name, section = key.rpartition(".")[2].lower().replace("-", "_"), key.partition(".")[0]
    keys = [one for one in known if "=" not in one and not _last_part(one).startswith("_")]
    usual = [one for one in keys if one.partition(".")[0] not in UNUSUAL_SECTIONS]
    found = [one for one in usual if _last_part(one) == name and one != key]
    found = [one for one in found if one.partition(".")[0] == section] or found
    if not found and name in FLAG_OF:
        found = [FLAG_OF[name][value.lower() in ("false", "0", "no", "off")]]
    if not found and name in RELATED_KEY_OF:
        return [RELATED_KEY_OF[name]]
    if not found and name in OVERRIDE_OF:
        template = OVERRIDE_OF[name]
        last_key = template.rpartition("=")[0].split()[-1] if "=" in template else template
        found = [last_key if last_key in usual else template]
    found = found or _find_similar(key, name, known, usual, arguments)
    overrides = [_fill_in(template, value, known, arguments) for template in found]
    complete = [one for one in overrides if "=" in one]
    return (complete or overrides)[:MAX_SUGGESTIONS]


def find_section(key: str, known: Iterable[str]) -> str:
    """Return the section of a dotted key, or one that is spelled like it; an empty string if there is none."""
    sections = dict.fromkeys(one.rpartition(".")[0] for one in known if "." in one and "=" not in one)
    return next(iter(difflib.get_close_matches(key.rpartition(".")[0], sections, n=1, cutoff=0.8)), "")


def list_section_keys(section: str, known: Iterable[str]) -> list[str]:
    """Return the names of the keys of a section."""
    names = [one.removeprefix(f"{section}.").partition(".")[0] for one in known if one.startswith(f"{section}.")]
    return [name for name in dict.fromkeys(names) if not name.startswith("_")]


def _find_similar(
    key: str, name: str, known: Iterable[str], usual: Sequence[str], arguments: Sequence[str]
) -> list[str]:
    """Return keys with a similar name: in the same section, with the same beginning, or anywhere."""
    if "." in key:
        if not (section := find_section(key, known)):
            return []
        siblings = [_last_part(one) for one in known if one.rpartition(".")[0] == section]
        close = _find_close_name(name, siblings)
        return [f"{section}.{close}"] if close else _find_in_other_options(section, name, arguments)
    longer = [one for one in usual if len(name) > 2 and _last_part(one).startswith(f"{name}_")]
    longer += [template for synonym, template in OVERRIDE_OF.items() if synonym.startswith(f"{name}_") and not longer]
    if longer and len(name) > 3:
        return list(dict.fromkeys(longer))
    sections = dict.fromkeys(one.partition(".")[0] for one in known if "." in one)
    groups = {one: f"{one}=OPTION" if list_options(one, arguments) else one for one in sections}
    names = groups | {_last_part(one): one for one in reversed(usual)} | {one: one for one in usual}
    return [names[one] for one in difflib.get_close_matches(key, names, n=1, cutoff=0.7)]


def _find_in_other_options(section: str, name: str, arguments: Sequence[str]) -> list[str]:
    """Return an override of the first option of the section's group that has a key with a similar name."""
    group, *parents = section.split(".")
    for option, content in read_options(group, arguments).items():
        node: Any = content
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        names = [str(one) for one in node if not str(one).startswith("_")] if isinstance(node, dict) else []
        if close := _find_close_name(name, names):
            return [f"{group}={option} {section}.{close}"]
    return []


def _find_close_name(name: str, names: Iterable[str]) -> str:
    """Return the closest of `names`, or the only one that `name` abbreviates: ckpt for checkpoint."""
    names = list(names)
    if close := difflib.get_close_matches(name, names, n=1):
        return close[0]
    long = [one for one in names if len(name) > 1 and one[0] == name[0] and _is_abbreviation(name, one)]
    return long[0] if len(long) == 1 else ""


def _is_abbreviation(short: str, text: str) -> bool:
    letters = iter(text)
    return all(letter in letters for letter in short)


def _last_part(key: str) -> str:
    return key.rpartition(".")[2].lower()


def _fill_in(template: str, value: str, known: Mapping[str, Any], arguments: Sequence[str]) -> str:
    """Return the override of a key or a template with the value; without it if it does not fit."""
    before, _, last = template.rpartition(" ")
    key, _, end = last.partition("=")
    if end == "OPTION":
        return _choose_option(key, value, arguments)
    if end in PLACEHOLDERS:
        if end == "RUN" and value.lower() == "true":
            value = "last"
        return f"{template.removesuffix(end)}{value if _is_name(value) else end}"
    if end:
        return template
    is_section = any(one.startswith(f"{key}.") for one in known)
    is_fit = bool(value) and not is_section and fits_key(key, value, known.get(key))
    if before:
        return f"{before} {key}={value if is_fit else 'VALUE'}"
    return f"{key}={value}" if is_fit else key


def _choose_option(group: str, value: str, arguments: Sequence[str]) -> str:
    """Return the override that chooses the option `value` of a group, or all options that there are."""
    options = list_trusted_options(group, arguments)
    option = find_option(group, value, options) if value else ""
    if not option and group in BY_NAME and _is_name(value):
        return choose_data(value) if group == "data" else f"{BY_NAME[group]}{value}"
    return f"{group}={option or '|'.join(options)}"


def _is_name(value: str) -> bool:
    return bool(value) and value.lower() not in ("true", "false", "null") and not _is_number(_parse(value))


def fits_key(key: str, value: str, current: Any) -> bool:
    """Return whether a value, as it was typed, has the type of a key whose current value is `current`."""
    parsed, name = _parse(value), key.rpartition(".")[2]
    if parsed is None or _is_range(value):
        return (parsed is None and value == "null") or _is_range(value)
    types = list_value_types(key) - {type(None)}
    if name.endswith(("_ratio", "_fraction", "dropout")):
        return _is_number(parsed) and 0 <= parsed <= 1
    if types == {int} or (not types and (name.endswith("_steps") or type(current) is int)):
        return _is_number(parsed) and parsed == int(parsed)
    if float in types or isinstance(current, float):
        return _is_number(parsed)
    if isinstance(current, bool | list):
        return isinstance(parsed, type(current))
    return isinstance(parsed, str) or _is_number(parsed) or (isinstance(parsed, list) and current is not None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_range(value: str) -> bool:
    try:
        return OverridesParser.create().parse_override(f"key={value}").is_sweep_override()
    except HydraException:
        return False


def _parse(value: str) -> Any:
    """Return the value that Hydra reads from a text; None also where it cannot."""
    try:
        return OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        return None
