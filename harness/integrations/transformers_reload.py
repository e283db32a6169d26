"""Load what a transformers Trainer saves, as its user would in another script."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

ADAPTER_FILE = "adapter_config.json"


def load_saved_model(trainer: Trainer, folder: Path) -> nn.Module:
    """Return a new model from what `trainer.save_model` wrote.

    The model of a class of transformers comes from the files alone; adapters, on the base model that they were trained
    on; any other model is built as a copy with noise for its trained weights, into which the files are loaded.

    Raises:
        FileNotFoundError: If there are no weights.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    device = next(model.parameters()).device
    if hasattr(model, "peft_config"):
        return _load_adapters(model, folder)
    if isinstance(model, PreTrainedModel):
        attention = getattr(model.config, "_attn_implementation", None)
        loaded: Any = type(model).from_pretrained(folder, attn_implementation=attention, local_files_only=True)
        return loaded.to(device)
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.pt")]
    files = [file for file in files if file.name != "training_args.bin"]
    if not files:
        raise FileNotFoundError("save_model wrote no weights (*.safetensors, *.bin)")
    loaded = copy_with_noise(model)
    for file in files:
        loaded.load_state_dict(_read_weights(file), strict=False)
    return loaded


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, weights_only=True)


def _load_adapters(model: Any, folder: Path) -> nn.Module:
    """Load adapters on a copy of the base model without them; merged or complete models are loaded as such."""
    copied = copy_with_noise(model)
    try:
        base = copied.unload()
    except (AttributeError, NotImplementedError):  # prompt tuning has nothing to unload
        base = copied.get_base_model()
    if not (folder / ADAPTER_FILE).exists():
        return type(base).from_pretrained(folder, local_files_only=True)
    return type(model).from_pretrained(base, folder, is_trainable=True, local_files_only=True)


@torch.no_grad()
def copy_with_noise(model: nn.Module) -> Any:
    """Return a copy in which all trainable weights differ, so that those that are not loaded show."""
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * (parameter.std() if parameter.numel() > 1 else 1.0) + 0.01)
    return copied


def find_adapter_merger(trainer: Trainer) -> Callable[[nn.Module], nn.Module] | None:
    """Return the function that merges the adapters of a model of peft, or None if there are none to merge."""
    model: Any = trainer.model
    if not hasattr(model, "peft_config") or not hasattr(model, "merge_and_unload"):
        return None

    def merge(copied: Any) -> nn.Module:
        return trainer.accelerator.prepare_model(copied.merge_and_unload(), evaluation_mode=True)

    return merge
