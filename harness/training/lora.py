"""LoRA adapters through peft: add them to a model, merge or remove them, and save them."""

import re
import warnings
from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from harness.models import untie_head
from harness.training.optimizers import is_conv1d, output_head


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
    """Add adapters as the only trainable parameters; the outputs do not change (Hu et al., 2022).

    `target_modules` is attention, all_linear, with_head, or endings of layer names. An adapted head is untied from
    the embedding.

    Raises:
        ValueError: If a number is out of range or a target matches no layer.
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank={rank} must be a whole number of at least 1; for no adapters choose lora=none")
    if not alpha > 0:
        raise ValueError(f"alpha={alpha} must be above 0: the adapters' output is scaled by alpha/rank")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must lie from 0 to below 1")
    names = find_target_layers(model, target_modules)

    from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import

    head = output_head(model)
    if any(model.get_submodule(name) is head for name in names):
        untie_head(model)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft accepts floats
        lora_dropout=dropout,
        target_modules=_exact_pattern(names),
        use_rslora=rslora,
        use_dora=dora,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft corrects it for each layer
        return inject_adapter_in_model(config, model)


def find_target_layers(model: nn.Module, target_modules: str | Iterable[str]) -> list[str]:
    """Return the full names of the linear layers that `target_modules` selects.

    Raises:
        ValueError: If a target matches no layer. The message lists the possible endings.
    """
    linear = {name: module for name, module in model.named_modules() if _is_linear(module)}
    body = [name for name, module in linear.items() if module is not output_head(model)]
    presets = {
        "attention": [name for name in body if re.search("attn|attention", name.rpartition(".")[0])],
        "all_linear": body,
        "with_head": list(linear),
    }
    targets = [target_modules] if isinstance(target_modules, str) else list(target_modules or [])
    found = {key: presets.get(key, [name for name in linear if f".{name}".endswith(f".{key}")]) for key in targets}
    unmatched = [key for key, names in found.items() if not names] if targets else ["[]"]
    if unmatched and not linear:
        raise ValueError(f"target_modules={', '.join(unmatched)}: the model has no linear layer; use lora=none")
    if unmatched:
        endings = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(
            f"target_modules={', '.join(unmatched)} matches no linear layer of the model; choose {', '.join(presets)}, "
            f"or among the endings {', '.join(endings)}"
        )
    selected = set().union(*found.values())
    return [name for name in linear if name in selected]


def remove_adapters(model: nn.Module, *, merged: bool) -> nn.Module:
    """Replace each adapted layer of `model` by the original one, with the adapter added to its weight if `merged`."""
    for name, layer in _adapted_layers(model):
        if merged:
            layer.merge()
        model.set_submodule(name, layer.base_layer)
    return model


def save_adapters(
    model: nn.Module, folder: Path, *, base: str, task_type: str | None, rename: Callable[[str], str] = str
) -> None:
    """Write the adapters of `model` for `peft.PeftModel.from_pretrained` on top of the model at `base`.

    `rename` maps the name of a layer here to its name in that model.
    """
    from peft import get_peft_model_state_dict

    peft_config: Any = model.peft_config
    config = copy(peft_config["default"])
    config.target_modules = _exact_pattern([rename(name) for name, _ in _adapted_layers(model)])
    config.task_type, config.base_model_name_or_path, config.inference_mode = task_type, base, True
    config.save_pretrained(folder)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {f"base_model.model.{rename(name)}": tensor.contiguous() for name, tensor in state.items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _adapted_layers(model: nn.Module) -> list[tuple[str, Any]]:  # layers of peft
    return [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "base_layer")]


def _exact_pattern(names: list[str]) -> str:
    # peft matches a pattern against whole names, but a list against the ends of names.
    return "|".join(map(re.escape, names))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_conv1d(module)
