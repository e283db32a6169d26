"""Small Trainers of transformers, as their users build them; tests change one part of them."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.utils import logging

from tests.preflight.strangers import PAD, VOCAB, make_sentences, pad_rows

PRETRAINING_STEPS = 80
logging.disable_progress_bar()


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Pad on the right; padding is neither attended to nor scored."""
    ids = [list(row["input_ids"]) for row in rows]
    return {
        "input_ids": pad_rows(ids, PAD),
        "attention_mask": pad_rows([[1] * len(row) for row in ids], 0),
        "labels": pad_rows(ids, -100),
    }


def make_rows(count: int, seed: int) -> list[dict[str, list[int]]]:
    return [{"input_ids": row} for row in make_sentences(count, seed)]


def make_gpt2(**more: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "n_positions": 160, "n_embd": 32, "n_layer": 2, "n_head": 2}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PAD}
    return GPT2LMHeadModel(GPT2Config(**sizes | tokens | more))


def make_llama(**more: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PAD}
    return LlamaForCausalLM(LlamaConfig(**sizes | heads | tokens | more))


def load_pretrained(make_model: Any, **more: Any) -> Any:
    """Return a model that was trained on sentences of this kind."""
    model = make_model(**more)
    model.load_state_dict(_pretrained_weights(make_model))
    return model


@cache
def _pretrained_weights(make_model: Any) -> dict[str, Tensor]:
    model, rows = make_model(), make_rows(320, seed=9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(PRETRAINING_STEPS):
        optimizer.zero_grad()
        model(**collate(rows[32 * step % 320 :][:32])).loss.backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def make_trainer(folder: Path, model: Any = None, kind: type[Trainer] = Trainer, **more: Any) -> Trainer:
    """Return a trainer with a linear schedule and a warm-up; `more` are arguments of either constructor."""
    names = set(TrainingArguments.__dataclass_fields__)
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 60, "warmup_steps": 6, "learning_rate": 3e-3, "use_cpu": True,
        "per_device_train_batch_size": 8, "report_to": [], "disable_tqdm": True, "eval_strategy": "steps",
        "eval_steps": 20, "save_strategy": "no", "logging_steps": 1,
    }  # fmt: skip
    settings |= {name: value for name, value in more.items() if name in names}
    others: dict[str, Any] = {"train_dataset": make_rows(160, 1), "eval_dataset": make_rows(48, 2)}
    others |= {"data_collator": collate} | {name: value for name, value in more.items() if name not in names}
    return kind(load_pretrained(make_gpt2) if model is None else model, TrainingArguments(**settings), **others)
