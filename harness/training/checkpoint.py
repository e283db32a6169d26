"""Checkpoints: folders with the weights as safetensors and the rest of the state as data, never as code."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.core.checkpoint_names import checkpoint_name, list_saved_steps
from harness.core.digests import check_exported, compute_file_digest, compute_json_digest, describe_mismatch
from harness.core.files import (
    check_regular_file,
    find_intact_folder,
    read_small_file,
    write_folder_atomically,
)
from harness.core.sharding import identify_storage
from harness.core.state import TrainState
from harness.training.sharded_checkpoint import MOMENTS_FOLDER, read_sharded_moments

WEIGHTS_FILE, STATE_FILE, SUMMARY_FILE = "model.safetensors", "state.pt", "checkpoint.json"
CHECKED_FILES = (WEIGHTS_FILE, STATE_FILE)
COUNTERS, RECORD = "counters", "record"  # keys of the summary, and of their digests in it


def save_checkpoint(state: TrainState, folder: Path, rng: Sequence[Any] | None = None) -> None:
    """Write `state` to `folder` atomically. `rng` holds the generator states of every process."""
    write_checkpoint(state.state_dict(rng), folder)


def write_checkpoint(
    parts: Mapping[str, Any], folder: Path, moments: Path | None = None, record: Mapping[str, Any] | None = None
) -> None:
    """Write the parts of a state to `folder` atomically.

    Args:
        moments: A folder with sharded ones, to be moved there.
        record: Describes what the run has recorded so far.
    """
    state_without_weights = {name: part for name, part in parts.items() if name != "model"}

    def write(draft: Path) -> None:
        save_weights(parts["model"], draft / WEIGHTS_FILE)
        with (draft / STATE_FILE).open("wb") as file:  # from a path, torch.save raises without saying why
            torch.save(state_without_weights, file)
        if moments:
            moments.rename(draft / MOMENTS_FOLDER)
        write_checkpoint_summary(draft, parts["counters"], record)

    write_folder_atomically(folder, write)


def estimate_checkpoint_bytes(state: TrainState, n_moments: int = 2) -> int:
    """Return about how many bytes a checkpoint of `state` takes, with so many moments per trainable parameter."""
    own = state.model.state_dict(keep_vars=True).values()
    tensors = {identify_storage(tensor): tensor for tensor in own}  # tied ones are written once
    weights = sum(tensor.nbytes for tensor in tensors.values())
    trainable = sum(parameter.nbytes for parameter in state.model.parameters() if parameter.requires_grad)
    return weights + n_moments * trainable


def write_checkpoint_summary(
    folder: Path, counters: Mapping[str, Any], record: Mapping[str, Any] | None = None
) -> None:
    """Write SUMMARY_FILE: the counters, the record so far, their SHA-256, and that of each other file."""
    parts = {COUNTERS: counters, **({RECORD: record} if record is not None else {})}
    shards = (f"{MOMENTS_FOLDER}/{path.name}" for path in sorted(folder.glob(f"{MOMENTS_FOLDER}/*")))
    names = (name for name in (*CHECKED_FILES, *shards) if (folder / name).exists())
    sums = {name: compute_json_digest(part) for name, part in parts.items()}
    summary = {**parts, "sha256": {**sums, **{name: compute_file_digest(folder / name) for name in names}}}
    (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=1))


def read_checkpoint(folder: Path, like: TrainState | None = None) -> dict[str, Any]:
    """Return all parts of the state in a checkpoint: model, optimizer, schedule, and so on.

    Moments that several processes wrote are whole, or sharded as the parameters of `like` are.

    Raises:
        ValueError: If a file is missing or damaged.
    """
    folder = find_intact_folder(folder)
    if damage := find_damage(folder):
        raise ValueError(damage)
    parts = _load_tensors(folder / STATE_FILE)
    parts["optimizer"] = read_sharded_moments(parts["optimizer"], folder / MOMENTS_FOLDER, like)
    return {"model": load_weights(folder / WEIGHTS_FILE), **parts}


def load_checkpoint(state: TrainState, folder: Path, *, rank: int = 0) -> None:
    """Restore `state` from `folder`.

    Raises:
        ValueError: If a file is missing or damaged, or does not fit `state`.
    """
    state.load_state_dict(read_checkpoint(folder, state), rank=rank)


def read_best_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of the best checkpoint in `folder`, the checkpoints of a run.

    Raises:
        ValueError: If they are missing or damaged; the message names the intact checkpoints.
    """
    best = find_intact_folder(folder / "best")
    if damage := _find_damage(best, (WEIGHTS_FILE,)):
        names = [checkpoint_name(step) for step in list_saved_steps(folder)]
        intact = [name for name in names if find_damage(find_intact_folder(folder / name)) is None]
        others = f"replace the folder by a copy of {' or '.join(intact)}, or " if intact else ""
        raise ValueError(f"{damage}; {others}train again")
    return load_weights(best / WEIGHTS_FILE)


def read_counters(folder: Path) -> dict[str, Any]:
    """Return the counters of a checkpoint (step, tokens, best loss, ...).

    Raises:
        ValueError: If the summary is missing or damaged.
    """
    return _read_summary(folder)["counters"]


def read_record_position(folder: Path) -> dict[str, Any]:
    """Return what a run had recorded when it saved a checkpoint.

    Raises:
        ValueError: If the summary is damaged, or the checkpoint was saved without it.
    """
    summary = _read_summary(folder)
    if RECORD not in summary:
        raise ValueError(f"{folder / SUMMARY_FILE} does not say what was recorded")
    return summary[RECORD]


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, or None if they are as written."""
    return _find_damage(folder, CHECKED_FILES) or _find_damage(folder, _list_shards(folder))


def choose_checkpoint(folder: Path, which: str) -> tuple[Path, list[str]]:
    """Return the checkpoint that `which` names ("best", "last" or a step) and a message for each damaged one skipped.

    A damaged checkpoint is replaced by the newest intact one before it.

    Raises:
        ValueError: If `which` names no checkpoint, or none is intact.
    """
    steps = list_saved_steps(folder)
    if which not in ("best", "last") and not (which.isdecimal() and int(which) in steps):
        known = ", ".join(["best", "last", *map(str, steps)])
        raise ValueError(f"{which!r} must be one of the checkpoints in {folder}: {known}")
    candidates, limit = [], math.inf
    if which == "best":
        candidates, limit = ["best"], _find_best_step(folder)
    elif which != "last":
        limit = int(which)
    candidates += [checkpoint_name(step) for step in reversed(steps) if step <= limit]
    problems: list[str] = []
    for path in (find_intact_folder(folder / name) for name in candidates):
        damage = find_damage(path)
        if damage is None:
            return path, problems
        problems.append(damage)
    raise ValueError(f"no intact checkpoint in {folder}: {'; '.join(problems) or 'there is none'}")


def _find_best_step(folder: Path) -> float:
    """Return the step of the best checkpoint, from its own summary or else from a later one; inf if unknown."""
    later = [(checkpoint_name(step), "best_step") for step in reversed(list_saved_steps(folder))]
    for name, counter in [("best", "step"), *later]:
        with suppress(ValueError):
            return read_counters(find_intact_folder(folder / name))[counter]
    return math.inf


def find_checkpoint(folder: Path, step: int) -> Path | None:
    """Return an intact checkpoint of `step` in `folder`, or None."""
    for path in map(find_intact_folder, (folder / "best", folder / checkpoint_name(step))):
        if find_damage(path) is None and read_counters(path)["step"] == step:
            return path
    return None


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors. Tied tensors are written once; the metadata lists the other names."""
    first_names: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in weights.items():
        first = first_names.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        if first != name:
            aliases[name] = first
    unique = {name: tensor.detach().contiguous() for name, tensor in weights.items() if name not in aliases}
    save_file(unique, path, metadata={"format": "pt", **aliases})


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, with the tied tensors that `save_weights` wrote once.

    Raises:
        ValueError: If the file is cut off or not a safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            aliases = {name: first for name, first in (file.metadata() or {}).items() if name != "format"}
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a complete safetensors file: {error}") from error
    return weights | {name: weights[first] for name, first in aliases.items() if first in weights}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a `.pt`, `.bin` or safetensors state dict of any origin without executing code.

    Raises:
        ValueError: If the file holds anything else, or a checkpoint or an export of ours is damaged.
    """
    check_regular_file(path)
    _check_own_digest(path)
    if path.suffix == ".safetensors":
        return load_weights(path)
    loaded = _load_tensors(path)
    for key in ("state_dict", "model_state_dict", "model"):  # common wrappers
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if isinstance(loaded, nn.Module) or not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}


def _list_shards(folder: Path) -> list[str]:
    """Return the names of the files with sharded moments that the summary of a checkpoint lists."""
    return [name for name in _read_summary(folder)["sha256"] if name.startswith(f"{MOMENTS_FOLDER}/")]


def _read_summary(folder: Path) -> dict[str, Any]:
    try:
        summary = json.loads(read_small_file(folder / SUMMARY_FILE))
        found = {key: summary[key] for key in (COUNTERS, "sha256", *([RECORD] if RECORD in summary else []))}
        for key in found.keys() - {"sha256"}:
            if found["sha256"][key] != compute_json_digest(found[key]):
                raise ValueError(f"{key}: another digest")
        return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / SUMMARY_FILE} is missing or damaged") from error


def _find_damage(folder: Path, names: Sequence[str]) -> str | None:
    try:
        sums = _read_summary(folder)["sha256"]
    except ValueError as error:
        return str(error)
    for name in names:
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
        if compute_file_digest(folder / name) != sums.get(name):
            return describe_mismatch(folder / name, SUMMARY_FILE)
    return None


def _check_own_digest(path: Path) -> None:
    """Check a file of a checkpoint or of an export; others have no digest."""
    if path.name == WEIGHTS_FILE and (path.parent / SUMMARY_FILE).is_file():
        if damage := _find_damage(path.parent, (WEIGHTS_FILE,)):
            raise ValueError(f"{damage}; use another checkpoint, or train again")
    else:
        check_exported(path.parent)


def _load_tensors(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as data: {str(error).partition(chr(10))[0]}") from error
