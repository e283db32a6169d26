"""Checkpoints: a folder with the weights as safetensors and the rest of the state as data, never as code."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.core.distributed import ProcessGroup
from harness.core.files import find_intact_folder, replace_folder, write_folder_atomically
from harness.core.seeding import get_rng_state
from harness.core.state import TrainState
from harness.training.policies import SPIKE_STEPS

WEIGHTS_FILE, STATE_FILE, SUMMARY_FILE = "model.safetensors", "state.pt", "checkpoint.json"
AFTER_SPIKE = ".after-spike"
"""Ends the names of the checkpoints that a rollback went back behind."""


def save_checkpoint(state: TrainState, folder: Path, rng: Sequence[Any] | None = None) -> None:
    """Write `folder` whole or not at all: to a neighbour first, flushed, then renamed over the old one.

    `rng` is the generators' states of every process, by default of this one. SUMMARY has the counters and the SHA-256
    of the other files."""
    rest = state.state_dict(rng)

    def write(draft: Path) -> None:
        save_weights(rest.pop("model"), draft / WEIGHTS_FILE)
        torch.save(rest, draft / STATE_FILE)
        sums = {name: _file_sha256(draft / name) for name in (WEIGHTS_FILE, STATE_FILE)}
        (draft / SUMMARY_FILE).write_text(json.dumps({"counters": rest["counters"], "sha256": sums}, indent=1))

    write_folder_atomically(folder, write)


def load_checkpoint(state: TrainState, folder: Path, *, rank: int = 0) -> None:
    """Bring `state` to where `folder` left it; ValueError where a file is damaged."""
    folder = find_intact_folder(folder)
    if fault := find_damage(folder):
        raise ValueError(fault)
    rest = _load_tensors(folder / STATE_FILE)
    state.load_state_dict({**rest, "model": load_weights(folder / WEIGHTS_FILE)}, rank=rank)


def read_counters(folder: Path) -> dict[str, Any]:
    """Step, tokens, best so far and so on of a checkpoint; ValueError where that file is damaged."""
    try:
        return json.loads((folder / SUMMARY_FILE).read_text())["counters"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder / SUMMARY_FILE} is damaged") from error


def find_damage(folder: Path) -> str | None:
    """Which file of a checkpoint is not what was written, if any."""
    try:
        sums = json.loads((folder / SUMMARY_FILE).read_text())["sha256"]
    except (OSError, ValueError, KeyError):
        return f"{folder / SUMMARY_FILE} is missing or damaged"
    for name, written in sums.items():
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
        if _file_sha256(folder / name) != written:
            return f"{folder / name} is damaged: its SHA-256 is not the one in {SUMMARY_FILE}"
    return None


def choose_checkpoint(folder: Path, which: str) -> tuple[Path, list[str]]:
    """The checkpoint in `folder` that `which` names, best, last or a step, and what is damaged on the way to it.

    In the place of a damaged one stands the newest whole one before it. ValueError where there is none."""
    steps = list_saved_steps(folder)
    known = ", ".join(["best", "last", *(str(step) for step in steps)])
    if which not in ("best", "last") and not (which.isdecimal() and int(which) in steps):
        raise ValueError(f"{which!r} is none of the checkpoints that {folder} keeps: {known}")
    if which == "best":
        asked, limit = [folder / "best"], find_best_step(folder)
    else:
        asked, limit = [], int(which) if which.isdecimal() else math.inf
    earlier = [step for step in steps if step <= limit]
    faults = []
    for path in map(find_intact_folder, [*asked, *(folder / checkpoint_name(step) for step in reversed(earlier))]):
        fault = find_damage(path)
        if fault is None:
            return path, faults
        faults.append(fault)
    raise ValueError(f"no whole checkpoint is left in {folder}: {'; '.join(faults) or 'there is none'}")


def find_best_step(folder: Path) -> float:
    """The step of the best in `folder`, as it says itself or else another one does."""
    for name, counter in (
        ("best", "step"),
        *((checkpoint_name(step), "best_step") for step in reversed(list_saved_steps(folder))),
    ):
        with suppress(ValueError):
            return read_counters(find_intact_folder(folder / name))[counter]
    return math.inf


def find_checkpoint(folder: Path, step: int) -> Path | None:
    """A whole checkpoint of `step` in `folder`, as the best or among the last."""
    for path in map(find_intact_folder, (folder / "best", folder / checkpoint_name(step))):
        if find_damage(path) is None and read_counters(path)["step"] == step:
            return path
    return None


def list_saved_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, oldest first, without those after a spike."""
    names = {path.name.removesuffix(".old") for path in folder.glob("step-*")}
    return sorted(int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdecimal())


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


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
    loaded = _load_tensors(path)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if isinstance(loaded, nn.Module) or not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}


def _load_tensors(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as data: {str(error).partition(chr(10))[0]}") from error


class Checkpointer:
    """Keeps the last `keep` checkpoints in `<folder>/step-…`, those of them that a spike may call for, and
    `<folder>/best`."""

    def __init__(self, folder: Path, world: ProcessGroup, keep: int) -> None:
        self.folder, self.world, self.keep = folder, world, keep
        self._saved_step: int | None = None

    def save(self, state: TrainState, is_best: bool) -> None:
        """Called by every process: each has generators of its own. What is saved already is not written again."""
        path = self.folder / checkpoint_name(state.step)
        is_saved, self._saved_step = self._saved_step == state.step, state.step
        rng = None if is_saved else self.world.all_gather(get_rng_state())
        if not self.world.is_main:
            return
        if not is_saved:
            save_checkpoint(state, path, rng)
        if is_best:
            write_folder_atomically(self.folder / "best", lambda draft: _link_files(path.iterdir(), draft))
        saved = list_saved_steps(self.folder)
        safe = max((step for step in saved if step <= state.step - SPIKE_STEPS), default=0)  # from a spike not yet seen
        for step in saved[: -self.keep]:
            if step < safe:
                shutil.rmtree(self.folder / checkpoint_name(step))

    def save_resumed_start(self, state: TrainState, best: Path | None) -> None:
        """Have what a run that goes on from another needs to stand alone: where it begins, and the best so far."""
        self.save(state, False)
        if self.world.is_main and best:
            write_folder_atomically(self.folder / "best", lambda draft: _link_files(best.iterdir(), draft))

    def restore_before(self, state: TrainState, before: int) -> int | None:
        """Bring `state` to the last whole checkpoint of less than `before` steps and mark those after it; its step, or
        None where there is none."""
        path = self.world.broadcast(self._find_last_before(before) if self.world.is_main else None)
        if path is None:
            return None
        load_checkpoint(state, path, rank=self.world.rank)
        self._saved_step = None  # what comes of it differs from what is there
        if self.world.is_main:
            for step in list_saved_steps(self.folder):
                if step > state.step:
                    replace_folder(
                        self.folder / checkpoint_name(step), self.folder / f"{checkpoint_name(step)}{AFTER_SPIKE}"
                    )
        return state.step

    def _find_last_before(self, step: int) -> Path | None:
        paths = [
            self.folder / checkpoint_name(saved) for saved in reversed(list_saved_steps(self.folder)) if saved < step
        ]
        return next((path for path in map(find_intact_folder, paths) if find_damage(path) is None), None)


def _link_files(files: Iterable[Path], folder: Path) -> None:
    """The same files under another name, copied where the file system has no links."""
    for file in files:
        try:
            os.link(file, folder / file.name)
        except OSError:
            shutil.copyfile(file, folder / file.name)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
