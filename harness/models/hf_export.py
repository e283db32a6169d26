"""Convert a model to a class of transformers, so that it can be used without this package."""

import re
from typing import Any

from torch import nn

from harness.models.gpt import GPT, Block

GPT2_NAMES = {
    "token_embedding": "transformer.wte",
    "position_embedding": "transformer.wpe",
    "blocks": "transformer.h",
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
    "norm": "transformer.ln_f",
    "head": "lm_head",
}
"""Names of the parts of our GPT in GPT-2; no key is a prefix of a later one."""
GPT_PART_NAMES = re.compile("|".join(map(re.escape, GPT2_NAMES)))


def to_transformers_model(model: Any, eos_id: int) -> nn.Module:
    """Return `model`, which must have no adapters, as an equivalent class of transformers.

    Raises:
        ValueError: If transformers has no such class.
    """
    if isinstance(model, GPT):
        return _convert_gpt(model, eos_id)
    if not hasattr(model, "save_pretrained"):
        raise ValueError(f"{type(model).__name__}: transformers has no equivalent class")
    model.config.use_cache = True
    return model


def to_transformers_name(name: str, model: nn.Module) -> str:
    """Return the name that the layer or parameter `name` of `model` has after `to_transformers_model(model)`."""
    return GPT_PART_NAMES.sub(lambda part: GPT2_NAMES[part[0]], name) if isinstance(model, GPT) else name


def _convert_gpt(model: GPT, eos_id: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    first_block = model.blocks[0]
    assert isinstance(first_block, Block)
    dropout = first_block.dropout.p
    config = GPT2Config(
        vocab_size=model.token_embedding.num_embeddings,
        n_positions=model.positions,
        n_embd=model.token_embedding.embedding_dim,
        n_layer=len(model.blocks),
        n_head=first_block.attention.heads,
        activation_function="gelu",  # exact; GPT-2 itself uses the tanh approximation
        resid_pdrop=dropout,
        attn_pdrop=dropout,
        embd_pdrop=0.0,
        tie_word_embeddings=model.head.weight is model.token_embedding.weight,
        bos_token_id=eos_id,
        eos_token_id=eos_id,
    )
    twin = GPT2LMHeadModel(config).eval()
    renamed = {to_transformers_name(name, model): tensor for name, tensor in model.state_dict().items()}
    is_transposed = re.compile(r"\.c_\w+\.weight$")  # Conv1D weights have shape (in, out)
    twin.load_state_dict({name: tensor.T if is_transposed.search(name) else tensor for name, tensor in renamed.items()})
    return twin
