"""A model as a class of transformers, which then needs nothing of ours."""

import re

from torch import nn

from harness.models.gpt import GPT

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
"""What GPT-2 calls the parts of our GPT, none of which is the beginning of a later one."""
GPT_PART_NAMES = re.compile("|".join(map(re.escape, GPT2_NAMES)))


def to_transformers_model(model: nn.Module, eos_id: int) -> nn.Module:
    """`model`, without adapters, as a class of transformers that computes the same; ValueError where there is none."""
    if isinstance(model, GPT):
        return _convert_gpt(model, eos_id)
    if not hasattr(model, "save_pretrained"):
        raise ValueError(f"transformers has no class that computes what {type(model).__name__} does")
    model.config.use_cache = True
    return model


def to_transformers_name(name: str, model: nn.Module) -> str:
    """What `as_transformers(model)` calls the layer or the parameter `name` of `model`."""
    return GPT_PART_NAMES.sub(lambda part: GPT2_NAMES[part[0]], name) if isinstance(model, GPT) else name


def _convert_gpt(model: GPT, eos_id: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    dropout = model.blocks[0].dropout.p
    config = GPT2Config(
        vocab_size=model.token_embedding.num_embeddings,
        n_positions=model.positions,
        n_embd=model.token_embedding.embedding_dim,
        n_layer=len(model.blocks),
        n_head=model.blocks[0].attention.heads,
        activation_function="gelu",  # exact, where GPT-2's own is the tanh approximation
        resid_pdrop=dropout,
        attn_pdrop=dropout,
        embd_pdrop=0.0,
        tie_word_embeddings=model.head.weight is model.token_embedding.weight,
        bos_token_id=eos_id,
        eos_token_id=eos_id,
    )
    twin = GPT2LMHeadModel(config).eval()
    renamed = {to_transformers_name(name, model): tensor for name, tensor in model.state_dict().items()}
    is_transposed = re.compile(r"\.c_\w+\.weight$")  # Conv1D keeps [in, out]
    twin.load_state_dict({name: tensor.T if is_transposed.search(name) else tensor for name, tensor in renamed.items()})
    return twin
