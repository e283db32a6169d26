"""LoRA through peft: which layers are adapted, the adapters put in, merged, taken out again and saved."""

import re
import warnings
from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from harness.models import untie_head


def add_adapters(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: str | Iterable[str],
    rslora: bool = False,
    dora: bool = False,
) -> nn.Module:
    """`model` with adapters as its only trainable parameters and its outputs unchanged (Hu et al., 2022).

    `target_modules` is attention, all_linear, with_head, or endings of layer names. The head, when adapted, shares
    its weight no longer. ValueError for a rank below 1 and for targets that match nothing.
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank={rank} must be a whole number of at least 1; for no adapters choose lora=none")
    if not alpha > 0:
        raise ValueError(f"alpha={alpha} must be above 0: the adapters' output is scaled by alpha/rank")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must lie from 0 to below 1")
    names = find_target_layers(model, target_modules)

    from peft import LoraConfig, inject_adapter_in_model

    head = _output_head(model)
    if any(model.get_submodule(name) is head for name in names):
        untie_head(model)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_exact_pattern(names),
        use_rslora=rslora,
        use_dora=dora,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft sets it itself, layer by layer
        return inject_adapter_in_model(config, model)


def find_target_layers(model: nn.Module, target_modules: str | Iterable[str]) -> list[str]:
    """The full names of the linear layers meant; ValueError, with the endings that exist, where one means none."""
    linear = {name: module for name, module in model.named_modules() if _is_linear(module)}
    body = [name for name, module in linear.items() if module is not _output_head(model)]
    chosen = {
        "attention": [name for name in body if re.search("attn|attention", name.rpartition(".")[0])],
        "all_linear": body,
        "with_head": list(linear),
    }
    wanted = [target_modules] if isinstance(target_modules, str) else list(target_modules or [])
    found = {key: chosen.get(key, [name for name in linear if f".{name}".endswith(f".{key}")]) for key in wanted}
    idle = [key for key, names in found.items() if not names] if wanted else ["[]"]
    if idle:
        endings = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(
            f"target_modules={', '.join(idle)} matches no linear layer of the model: choose {', '.join(chosen)}, "
            f"or among the endings {', '.join(endings)}"
        )
    meant = set().union(*found.values())
    return [name for name in linear if name in meant]


def remove_adapters(model: nn.Module, *, merged: bool) -> nn.Module:
    """`model` itself, each adapted layer replaced by its own, with the adapter's part added where `merged`."""
    for name, layer in _adapted_layers(model):
        if merged:
            layer.merge()
        model.set_submodule(name, layer.base_layer)
    return model


def save_adapters(
    model: nn.Module, folder: Path, *, base: str, task_type: str | None, rename: Callable[[str], str] = str
) -> None:
    """Write the adapters of `model` as `peft.PeftModel.from_pretrained` reads them onto the model at `base`, in which
    a layer goes by `rename` of its name here."""
    from peft import get_peft_model_state_dict

    config = copy(model.peft_config["default"])
    config.target_modules = _exact_pattern([rename(name) for name, _ in _adapted_layers(model)])
    config.task_type, config.base_model_name_or_path, config.inference_mode = task_type, base, True
    config.save_pretrained(folder)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {f"base_model.model.{rename(name)}": tensor.contiguous() for name, tensor in state.items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _adapted_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "base_layer")]


def _exact_pattern(names: list[str]) -> str:
    """For peft, which matches a pattern against whole names and a list against their endings."""
    return "|".join(map(re.escape, names))


def _output_head(model: nn.Module) -> nn.Module | None:
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # transformers' name for GPT-2's linear
