"""Estimate the disk space that the checkpoints of a sweep will take."""

from dataclasses import dataclass

from harness.core.formatting import format_bytes
from harness.core.shortage import ShortageError, free_bytes
from harness.sweep.programs.training.request import TrainingRequest
from harness.sweep.workers.checkpoints import DISK_SHARE

RECORD_BYTES = 1 << 20  # metrics, figures and logs of one trial


@dataclass(frozen=True)
class DiskUse:
    """Bytes that a sweep needs to train at all, and those it may take at most."""

    lowest: int
    highest: int


def estimate_disk_use(request: TrainingRequest, checkpoint_bytes: int, free: int | None = None) -> DiskUse:
    """Estimate the disk use of a sweep whose largest checkpoint takes `checkpoint_bytes`.

    A running trial keeps `loop.keep_checkpoints`, the best one, one for a rollback and the one being written. The best
    `sweep.keep` trials keep theirs, and paused ones as far as `sweep.max_disk` or half of the `free` space allows.
    """
    keep, n_trials = request.cfg.loop.keep_checkpoints, request.budget.n_trials
    n_kept = n_trials if request.options.keep is None else min(request.options.keep, n_trials)
    running = request.workers.n_jobs * (keep + 3)
    finished = n_kept * (keep + 2)
    paused = (n_trials - n_kept) * (keep + 2) * checkpoint_bytes if request.spec.is_pausing else 0
    limit = request.options.max_disk or (None if free is None else int(DISK_SHARE * free))
    return DiskUse(
        # two per running trial, without moments: some optimizers have none, and others make up two thirds
        lowest=request.workers.n_jobs * 2 * checkpoint_bytes // 3,
        highest=(running + finished) * checkpoint_bytes
        + (paused if limit is None else min(paused, limit))
        + n_trials * RECORD_BYTES,
    )


def check_disk_space(request: TrainingRequest, checkpoint_bytes: int) -> str:
    """Return a line with the disk space that the sweep may take and what is free.

    Raises:
        ShortageError: If not even the checkpoints of the running trials fit.
    """
    free = free_bytes(request.folder) if request.workers.is_local else None
    use = estimate_disk_use(request, checkpoint_bytes, free)
    if free is None:
        return f"disk space: at most {format_bytes(use.highest)}"
    if use.lowest > free:
        raise ShortageError(
            f"output_dir: {request.folder}: the checkpoints of {request.workers.n_jobs} running trials take at least "
            f"{format_bytes(use.lowest)} and {format_bytes(free)} are free; make room, use another output_dir, or "
            "lower sweep.n_jobs"
        )
    options = f"{'sweep.max_disk, ' * request.spec.is_pausing}sweep.keep or loop.keep_checkpoints"
    line = f"disk space: at most {format_bytes(use.highest)} of {format_bytes(free)} free in {request.folder}"
    return line if use.highest <= free else f"{line}; lower {options}, or make room"
