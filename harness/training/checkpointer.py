"""When the checkpoints of a run are written, which of them are kept, and what a rollback restores."""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness.core.checkpoint_names import checkpoint_name, list_saved_steps
from harness.core.distributed import ProcessGroup
from harness.core.files import (
    DRAFT_SUFFIX,
    find_intact_folder,
    remove_folder,
    remove_leftovers,
    replace_folder,
    write_folder_atomically,
)
from harness.core.seeding import get_rng_state
from harness.core.sharding import gather_state_dict, has_sharded_weights
from harness.core.shortage import ShortageError, describe_shortage
from harness.core.state import TrainState
from harness.training.checkpoint import (
    find_checkpoint,
    find_damage,
    load_checkpoint,
    read_counters,
    write_checkpoint,
)
from harness.training.sharded_checkpoint import MOMENTS_FOLDER, write_sharded_moments
from harness.training.spikes import SPIKE_STEPS

AFTER_SPIKE = ".after-spike"  # suffix of checkpoints that a rollback discarded


class Checkpointer:
    """Write checkpoints to `folder`: `step-…` for the last `keep`, and `best`.

    Older ones are kept as long as a rollback may need them. A rollback goes back to planned ones only, so that probes
    and stops do not change the run; others are removed once a later one is saved.
    """

    def __init__(
        self, folder: Path, processes: ProcessGroup, keep: int, is_planned: Callable[[int], bool] = lambda step: True
    ) -> None:
        self.folder, self.processes, self.keep, self.is_planned = folder, processes, keep, is_planned
        self._saved_step: int | None = None

    def save(self, state: TrainState, is_best: bool, record: Mapping[str, Any] | None = None) -> None:
        """Save `state` unless this step is saved already. Every process must call it, to save its generators.

        An error of the process that writes is raised by all, so that none waits for it.
        """
        path = self.folder / checkpoint_name(state.step)
        moments = (
            path.with_name(f"{path.name}-{MOMENTS_FOLDER}{DRAFT_SUFFIX}") if has_sharded_weights(state.model) else None
        )
        is_saved, self._saved_step = self._saved_step == state.step, state.step
        parts = None if is_saved else self._collect_parts(state, moments)

        def write() -> None:
            try:
                if parts:
                    write_checkpoint(parts, path, moments, record)
                if is_best:
                    self._link(path, self.folder / "best")
            except Exception as error:  # other processes receive the error without its cause
                if shortage := describe_shortage(error, self.folder):
                    raise ShortageError(shortage) from error
                raise
            self._remove_old(state.step)

        self.processes.run_main_first(write if self.processes.is_main else lambda: None)

    def _collect_parts(self, state: TrainState, moments: Path | None) -> dict[str, Any]:
        """Return what rank 0 writes, with the generators of every process; write sharded moments to a folder."""
        parts = state.state_dict(self.processes.all_gather(get_rng_state()))
        if moments:
            remove = partial(shutil.rmtree, moments, ignore_errors=True)  # what a killed process left
            self.processes.run_main_first(lambda: remove() if self.processes.is_main else None)
            parts["model"] = gather_state_dict(state.model, is_kept=self.processes.is_main)
            parts["optimizer"] = write_sharded_moments(parts["optimizer"], moments)
        return parts

    def _remove_old(self, step: int) -> None:
        """Remove the checkpoints that neither `keep` nor a rollback needs once `step` is saved."""
        saved = list_saved_steps(self.folder)
        planned = [earlier for earlier in saved if self.is_planned(earlier)]
        # A spike is detected SPIKE_STEPS late, so a rollback may need the last checkpoint before that.
        rollback_step = max((earlier for earlier in planned if earlier <= step - SPIKE_STEPS), default=0)
        old = [earlier for earlier in planned[: -self.keep] if earlier < rollback_step]
        for earlier in (*old, *(one for one in saved if one < step and one not in planned)):
            remove_folder(self.folder / checkpoint_name(earlier))

    def link_best(self, best: Path | None) -> None:
        """Make `best` hold the files of another checkpoint, if there is one."""
        if self.processes.is_main and best:
            self._link(best, self.folder / "best")

    def continue_from(self, state: TrainState, checkpoint: Path) -> None:
        """Go on from `checkpoint`, which `state` holds: remove later ones, and let `best` be that of its best step."""
        self._saved_step = state.step
        if not self.processes.is_main:
            return
        remove_leftovers(self.folder)
        if checkpoint.name.partition(".")[0] == "best":  # the other copy of this step is damaged
            self._link(checkpoint, self.folder / checkpoint_name(state.step))
        best = find_intact_folder(self.folder / "best")
        if state.best_val_loss < math.inf and (find_damage(best) or read_counters(best)["step"] != state.best_step):
            found = find_checkpoint(self.folder, state.best_step)
            if found is not None:
                self._link(found, self.folder / "best")
        for step in list_saved_steps(self.folder):
            if step > state.step:
                remove_folder(self.folder / checkpoint_name(step))

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
        saved = reversed(list_saved_steps(self.folder))
        earlier = [one for one in saved if one < step and self.is_planned(one)]
        paths = (find_intact_folder(self.folder / checkpoint_name(one)) for one in earlier)
        return next((path for path in paths if find_damage(path) is None), None)

    @staticmethod
    def _link(checkpoint: Path, target: Path) -> None:
        """Make `target` hold the files of `checkpoint`."""

        def link_files(draft: Path) -> None:
            shutil.copytree(checkpoint, draft, copy_function=_link_or_copy, dirs_exist_ok=True)

        write_folder_atomically(target, link_files)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copyfile(source, target)
