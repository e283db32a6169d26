"""Find the key that was meant: by its last part, by what other tools call it, or by a similar name."""

import difflib
from collections.abc import Iterable

from harness.core.paths import config_dir

SYNONYMS = {
    "optimizer.lr": "learning_rate learningrate base_lr peak_lr max_lr init_lr",
    "optimizer.betas": "adam_beta1 adam_beta2 beta1 beta2",
    "optimizer.eps": "adam_epsilon epsilon adam_eps",
    "optimizer.weight_decay": "wd l2",
    "optimizer={}": "optim opt optimiser optimizer_type optimizer_name",
    "schedule={}": "lr_scheduler_type scheduler lr_scheduler lr_schedule sched decay_lr",
    "schedule.warmup_steps": "num_warmup_steps warmup_iters n_warmup_steps",
    "schedule.warmup_ratio": "warmup_fraction warmup_proportion",
    "schedule.final_ratio": "min_lr min_lr_ratio final_lr lr_min eta_min",
    "batch.batch_size": "bs train_batch_size total_batch_size global_batch_size effective_batch_size",
    "batch.micro_batch_size": "per_device_train_batch_size micro_batch device_batch_size per_gpu_batch_size "
    "gradient_accumulation_steps accumulate_grad_batches grad_accum accum_steps gradient_accumulation",
    "data.eval_batch_size": "per_device_eval_batch_size val_batch_size",
    "data.sequence_length": "block_size max_seq_length max_length max_seq_len seq_len seq_length context_length "
    "max_position_embeddings n_ctx cutoff_len",
    "data.val_fraction": "validation_split val_split test_size split_ratio val_size validation_fraction val_ratio",
    "data=text data.source.path={}": "data_path dataset_path train_file data_file data_dir dataset_dir input_file file",
    "data={}": "dataset dataset_name train_data",
    "loop.max_steps": "max_iters max_iter num_iterations iterations n_steps num_steps steps "
    "num_train_steps total_steps",
    "loop.epochs": "num_train_epochs num_epochs max_epochs n_epochs epoch nepochs",
    "loop.eval_every": "eval_steps eval_interval val_check_interval eval_freq eval_frequency val_every",
    "loop.log_every": "logging_steps log_interval log_every_n_steps log_freq",
    "loop.save_every": "save_steps save_interval every_n_train_steps checkpoint_every ckpt_every",
    "loop.keep_checkpoints": "save_total_limit save_top_k",
    "loop.grad_clip": "max_grad_norm gradient_clip_val clip_grad_norm gradient_clip clip_grad clip grad_norm_clip "
    "gradient_clipping max_norm",
    "loop.patience": "early_stopping_patience early_stopping",
    "lora.rank": "r lora_r lora_rank lora_dim",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.rslora": "use_rslora",
    "lora.dora": "use_dora",
    "lora.target_modules": "lora_target lora_target_modules",
    "model=hf model.name={}": "model_name_or_path model_name pretrained_model_name_or_path base_model "
    "pretrained model_id",
    "model.layers": "n_layer n_layers num_layers num_hidden_layers depth",
    "model.heads": "n_head n_heads num_heads num_attention_heads",
    "model.width": "n_embd hidden_size d_model dim embed_dim hidden_dim",
    "model.gradient_checkpointing": "activation_checkpointing",
    "tokenizer.vocab_size": "vocabulary_size n_vocab",
    "precision=fp16": "fp16 half",
    "precision=bf16": "bf16 bfloat16",
    "precision={}": "dtype torch_dtype mixed_precision amp",
    "device={}": "accelerator",
    "device=cuda": "gpu cuda gpus use_cuda",
    "device=cpu": "no_cuda use_cpu cpu",
    "start=resume start.run={}": "resume_from_checkpoint resume ckpt_path checkpoint resume_from load_from",
    "seed": "random_seed random_state manual_seed data_seed",
    "name": "run_name exp_name job_name",
    "output_dir": "out_dir save_dir default_root_dir log_dir logging_dir outdir output",
    "compile": "torch_compile use_compile",
    "tracking.experiment": "experiment_name mlflow_experiment wandb_project project project_name",
    "tracking.uri": "mlflow_uri tracking_uri mlflow_tracking_uri",
    "sweep.n_trials": "trials num_trials max_trials num_samples",
    "sweep.n_jobs": "num_workers workers n_workers jobs parallel",
    "sweep.study": "study_name",
    "sweep.max_seconds": "timeout max_time time_limit",
    "sweep.objectives": "objective metric metric_for_best_model monitor",
    "sweeps={}": "search_space space",
    "hydra/sweeper/sampler={}": "sampler",
}
"""By an override, or a key to which the value is given: what Hugging Face's TrainingArguments and LoraConfig,
Lightning's Trainer, nanoGPT's train.py, Optuna, Ray Tune and common scripts call the same setting."""

OVERRIDE_OF = {synonym: override for override, names in SYNONYMS.items() for synonym in names.split()}
UNUSUAL_SECTIONS = ("thresholds", "observers", "hydra", "locked", "unlock")
MAX_SUGGESTIONS = 3


def suggest_overrides(key: str, value: str, known: Iterable[str]) -> list[str]:
    """Return up to three overrides that `key=value` may stand for, the most likely first.

    Args:
        key: A dotted key that does not exist.
        value: May be empty.
        known: All dotted keys of the configuration.
    """
    keys = [one for one in known if "=" not in one and not one.rpartition(".")[2].startswith("_")]
    usual = [one for one in keys if one.partition(".")[0] not in UNUSUAL_SECTIONS]
    name = key.rpartition(".")[2].lower().replace("-", "_")
    section = key.partition(".")[0]
    found = [one for one in usual if _last_part(one) == name and one != key]
    found.sort(key=lambda one: one.partition(".")[0] != section)
    if not found and (template := OVERRIDE_OF.get(name)):
        last_key = template.split()[-1].partition("=")[0]
        found = [last_key if last_key in usual else template]
    found = found or _find_similar(key, name, keys, usual)
    return [_fill_in(template, value) for template in found[:MAX_SUGGESTIONS]]


def _find_similar(key: str, name: str, keys: list[str], usual: list[str]) -> list[str]:
    """Return keys with a similar name: in the same section, with the same beginning, or anywhere."""
    section = key.rpartition(".")[0]
    siblings = {_last_part(one): one for one in keys if one.rpartition(".")[0] == section}
    if section and (close := difflib.get_close_matches(name, siblings, n=1)):
        return [siblings[close[0]]]
    longer = [one for one in usual if len(name) > 2 and _last_part(one).startswith(f"{name}_")]
    longer += [template for synonym, template in OVERRIDE_OF.items() if synonym.startswith(f"{name}_") and not longer]
    if longer and len(name) > 3:
        return list(dict.fromkeys(longer))
    sections = dict.fromkeys(one.partition(".")[0] for one in keys)
    names = {**{one: one for one in sections}, **{_last_part(one): one for one in reversed(usual)}} | {
        one: one for one in usual
    }
    return [names[one] for one in difflib.get_close_matches(key, names, n=1, cutoff=0.7)]


def _last_part(key: str) -> str:
    return key.rpartition(".")[2].lower()


def _fill_in(template: str, value: str) -> str:
    """Return the override of a key or a template with this value; … stands for a value, or an option, to choose."""
    if "=" not in template:
        return f"{template}={value}" if value else template
    group = template.partition("=")[0]
    is_option = (config_dir() / group / f"{value}.yaml").is_file() or "." in template
    return template.format(value if value and is_option else "…")
