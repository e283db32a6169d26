"""Checkpoints: folders with the weights as safetensors and the rest of the state as data, never as code."""

import json
import math
import os
import shutil
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
from harness.core.distributed import ProcessGroup
from harness.core.files import (
    check_regular_file,
    find_intact_folder,
    read_small_file,
    remove_folder,
    replace_folder,
    write_folder_atomically,
)
from harness.core.seeding import get_rng_state
from harness.core.shortage import ShortageError, describe_shortage
from harness.core.state import TrainState
from harness.training.spikes import SPIKE_STEPS

WEIGHTS_FILE, STATE_FILE, SUMMARY_FILE = "model.safetensors", "state.pt", "checkpoint.json"
CHECKED_FILES = (WEIGHTS_FILE, STATE_FILE)
COUNTERS = "counters"  # key of the summary, and of their digest in it
AFTER_SPIKE = ".after-spike"  # suffix of checkpoints that a rollback discarded


def save_checkpoint(state: TrainState, folder: Path, rng: Sequence[Any] | None = None) -> None:
    """Write `state` to `folder` atomically. `rng` holds the generator states of every process."""
    state_without_weights = state.state_dict(rng)
    weights = state_without_weights.pop("model")

    def write(draft: Path) -> None:
        save_weights(weights, draft / WEIGHTS_FILE)
        with (draft / STATE_FILE).open("wb") as file:  # from a path, torch.save raises without saying why
            torch.save(state_without_weights, file)
        write_checkpoint_summary(draft, state_without_weights["counters"])

    write_folder_atomically(folder, write)


def estimate_checkpoint_bytes(state: TrainState, n_moments: int = 2) -> int:
    """Return about how many bytes a checkpoint of `state` takes, with so many moments per trainable parameter."""
    tensors = {tensor.data_ptr(): tensor for tensor in state.model.state_dict().values()}  # tied ones are written once
    weights = sum(tensor.nbytes for tensor in tensors.values())
    trainable = sum(parameter.nbytes for parameter in state.model.parameters() if parameter.requires_grad)
    return weights + n_moments * trainable


def write_checkpoint_summary(folder: Path, counters: Mapping[str, Any]) -> None:
    """Write SUMMARY_FILE: the counters, their SHA-256, and that of each other file of the checkpoint."""
    sums = {name: compute_file_digest(folder / name) for name in CHECKED_FILES if (folder / name).exists()}
    summary = {"counters": counters, "sha256": {COUNTERS: compute_json_digest(counters), **sums}}
    (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=1))


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return all parts of the state in a checkpoint: model, optimizer, schedule, and so on.

    Raises:
        ValueError: If a file is missing or damaged.
    """
    folder = find_intact_folder(folder)
    if damage := find_damage(folder):
        raise ValueError(damage)
    return {"model": load_weights(folder / WEIGHTS_FILE), **_load_tensors(folder / STATE_FILE)}


def load_checkpoint(state: TrainState, folder: Path, *, rank: int = 0) -> None:
    """Restore `state` from `folder`.

    Raises:
        ValueError: If a file is missing or damaged, or does not fit `state`.
    """
    state.load_state_dict(read_checkpoint(folder), rank=rank)


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


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, or None if they are as written."""
    return _find_damage(folder, CHECKED_FILES)


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


class Checkpointer:
    """Write checkpoints to `folder`: `step-…` for the last `keep`, and `best`.

    Older ones are kept as long as a rollback may need them.
    """

    def __init__(self, folder: Path, processes: ProcessGroup, keep: int) -> None:
        self.folder, self.processes, self.keep = folder, processes, keep
        self._saved_step: int | None = None

    def save(self, state: TrainState, is_best: bool) -> None:
        """Save `state` unless this step is saved already. Every process must call it, to save its generators.

        An error of the process that writes is raised by all, so that none waits for it.
        """
        path = self.folder / checkpoint_name(state.step)
        is_saved, self._saved_step = self._saved_step == state.step, state.step
        rng = None if is_saved else self.processes.all_gather(get_rng_state())

        def write() -> None:
            try:
                if not is_saved:
                    save_checkpoint(state, path, rng)
                if is_best:
                    self._link_as_best(path)
            except Exception as error:  # other processes receive the error without its cause
                if shortage := describe_shortage(error, self.folder):
                    raise ShortageError(shortage) from error
                raise
            self._remove_old(state.step)

        self.processes.run_main_first(write if self.processes.is_main else lambda: None)

    def _remove_old(self, step: int) -> None:
        """Remove the checkpoints that neither `keep` nor a rollback needs once `step` is saved."""
        saved = list_saved_steps(self.folder)
        # A spike is detected SPIKE_STEPS late, so a rollback may need the last checkpoint before that.
        rollback_step = max((earlier for earlier in saved if earlier <= step - SPIKE_STEPS), default=0)
        for earlier in saved[: -self.keep]:
            if earlier < rollback_step:
                remove_folder(self.folder / checkpoint_name(earlier))

    def save_resumed_start(self, state: TrainState, best: Path | None) -> None:
        """Save where a resumed run starts and the best checkpoint so far, so that it does not need the old run.

        The best one comes first: if this process is killed in between, there is no step to resume from without it.
        """
        if self.processes.is_main and best:
            self._link_as_best(best)
        self.save(state, False)

    def restore_before(self, state: TrainState, before: int) -> int | None:
        """Restore the last intact checkpoint before step `before` and mark the later ones as discarded.

        Return its step, or None if there is none.
        """
        path = self.processes.broadcast(self._find_last_before(before) if self.processes.is_main else None)
        if path is None:
            return None
        load_checkpoint(state, path, rank=self.processes.rank)
        self._saved_step = None  # the same step will be saved again, with another state
        if self.processes.is_main:
            for step in list_saved_steps(self.folder):
                if step > state.step:
                    name = checkpoint_name(step)
                    replace_folder(self.folder / name, self.folder / f"{name}{AFTER_SPIKE}")
        return state.step

    def _find_last_before(self, step: int) -> Path | None:
        earlier = [saved for saved in reversed(list_saved_steps(self.folder)) if saved < step]
        paths = (find_intact_folder(self.folder / checkpoint_name(saved)) for saved in earlier)
        return next((path for path in paths if find_damage(path) is None), None)

    def _link_as_best(self, checkpoint: Path) -> None:
        def link_files(draft: Path) -> None:
            for file in checkpoint.iterdir():
                try:
                    os.link(file, draft / file.name)
                except OSError:  # the file system has no hard links
                    shutil.copyfile(file, draft / file.name)

        write_folder_atomically(self.folder / "best", link_files)


def _read_summary(folder: Path) -> dict[str, Any]:
    try:
        summary = json.loads(read_small_file(folder / SUMMARY_FILE))
        found = {key: summary[key] for key in (COUNTERS, "sha256")}
        if found["sha256"][COUNTERS] != compute_json_digest(found[COUNTERS]):
            raise ValueError("the counters have another digest")
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
