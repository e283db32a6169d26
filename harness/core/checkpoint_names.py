"""Names of the checkpoints in a run's folder. Apart from training.checkpoint, because this needs no torch."""

from pathlib import Path


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint of `step`."""
    return f"step-{step:08d}"


def list_saved_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in `folder` in ascending order, without those discarded by a rollback."""
    names = {path.name.removesuffix(".old") for path in folder.glob("step-*")}
    return sorted(int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdecimal())
