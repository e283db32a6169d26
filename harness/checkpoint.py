"""Checkpoints: a folder with the weights as safetensors and the rest of the state as data, never as code."""

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.state import TrainState

WEIGHTS, REST = "model.safetensors", "state.pt"


def save_checkpoint(state: TrainState, folder: Path) -> None:
    """Write `folder` whole or not at all: to a neighbour first, flushed, then renamed over the old one."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rest = state.state_dict()
    save_weights(rest.pop("model"), partial / WEIGHTS)
    torch.save(rest, partial / REST)
    for path in (*partial.iterdir(), partial):
        _flush(path)
    _replace(partial, folder)


def load_checkpoint(state: TrainState, folder: Path, *, load_moments: bool = True) -> None:
    """Bring `state` to where `folder` left it."""
    folder = standing(folder)
    rest = torch.load(folder / REST, map_location="cpu", weights_only=True)
    state.load_state_dict({**rest, "model": load_weights(folder / WEIGHTS)}, load_moments=load_moments)


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Tied tensors are written once, under their first name; the others stand in the metadata as aliases."""
    names: dict[tuple, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in weights.items():
        first = names.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        if first != name:
            aliases[name] = first
    unique = {name: tensor.detach().contiguous() for name, tensor in weights.items() if name not in aliases}
    save_file(unique, path, metadata={"format": "pt", **aliases})


def load_weights(path: Path) -> dict[str, Tensor]:
    """The state dict that `save_weights` was given, aliases included; any other safetensors file as it is.

    ValueError for a file that is cut off or of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            aliases = {name: first for name, first in (file.metadata() or {}).items() if name != "format"}
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is no whole safetensors file: {error}") from error
    return weights | {name: weights[first] for name, first in aliases.items() if first in weights}


def read_state_dict(path: Path) -> dict[str, Any]:
    """A foreign `.pt`, `.bin` or safetensors state dict, loaded as data; ValueError for anything else."""
    if path.suffix == ".safetensors":
        return load_weights(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as data: {str(error).partition(chr(10))[0]}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if isinstance(loaded, nn.Module) or not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}


class Checkpointer:
    """Keeps `<folder>/best` and `<folder>/last`, each replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, state: TrainState, kind: Literal["best", "last"]) -> None:
        save_checkpoint(state, self.folder / kind)


def standing(folder: Path) -> Path:
    """`folder`, or what it was to replace where the writer was cut off between the two renames."""
    old = _old(folder)
    return old if old.exists() and not folder.exists() else folder


def _replace(new: Path, folder: Path) -> None:
    """A folder cannot be renamed over one that has files: the old one steps aside first, and goes last."""
    old = _old(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old")


def _flush(path: Path) -> None:
    """Have the disk hold what a file says, or which names a folder has."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
