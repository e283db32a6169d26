"""Facts of a run in the parameters that another program gave it."""

from collections.abc import Mapping
from typing import Any

PARAM_ALIASES = {
    "peak_lr": "learning_rate lr optimizer.lr peak_lr max_lr",
    "grad_clip": "max_grad_norm grad_clip gradient_clip_val clip_grad_norm max_norm",
    "weight_decay": "weight_decay optimizer.weight_decay",
    "total_steps": "max_steps total_steps num_training_steps",
    "patience": "lr_patience scheduler_patience plateau_patience",
    "batch_size": "batch_size train_batch_size effective_batch_size",
    "lora_rank": "lora_rank lora_r lora.r lora.rank",
}
"""Parameters of other programs by fields of `RunFacts`, the most common first."""
INTEGER_FACTS = ("total_steps", "patience", "batch_size", "lora_rank")


def read_param_facts(params: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of `RunFacts` that the parameters of another program hold."""
    facts: dict[str, Any] = {}
    for fact, aliases in PARAM_ALIASES.items():
        for alias in aliases.split():
            try:
                value = float(params.get(alias, ""))
            except ValueError:
                continue
            if value > 0:  # transformers writes -1 and 0 for values that are not set
                facts.setdefault(fact, round(value) if fact in INTEGER_FACTS else value)
    return facts
