"""This process among those that train together, found without loading torch."""

import os
import sys
from typing import Any

from harness.core.errors import RunFailedError


class LostPeersError(RunFailedError):
    """Another process of the training has died; the run can be resumed."""


def is_first_process() -> bool:
    """Return whether this process is the only one of its training, or the one of rank 0."""
    if (group := _find_process_group()) is not None:
        return int(group.get_rank()) == 0
    # torchrun sets RANK; the launcher of Lightning only the other two
    names = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def is_helper_process() -> bool:
    """Return whether multiprocessing has started this process for anything but to train in a group of torch."""
    multiprocessing = sys.modules.get("multiprocessing")  # loaded in all processes that it starts
    is_started_by_it = multiprocessing is not None and multiprocessing.parent_process() is not None
    return is_started_by_it and _find_process_group() is None


def count_processes() -> int:
    """Return the number of processes that have joined a group of torch."""
    group = _find_process_group()
    return 1 if group is None else int(group.get_world_size())


def has_lost_peers(error: BaseException) -> bool:
    """Return whether communication with the other processes of a group has failed, as it does when one of them dies."""
    distributed = sys.modules.get("torch.distributed")
    if isinstance(error, LostPeersError) or distributed is None or not distributed.is_available():
        return isinstance(error, LostPeersError)
    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)


def _find_process_group() -> Any:
    """Return torch.distributed if this process has joined a group; torch is not loaded for that."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed
