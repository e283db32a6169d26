"""Schedulers that are advanced once an epoch: tell one that was made for epochs from one made for steps."""

import copy
import warnings
from typing import Any

import numpy as np

CHANGE = 0.05  # relative change of the LR over the run's epochs


def moves_by_epochs(scheduler: Any, n_epochs: int) -> bool:
    """Return whether the LR changes over the epochs of a run; one that was made for steps does not get far in these."""
    groups = scheduler.optimizer.param_groups
    kept, lrs = copy.deepcopy(scheduler.state_dict()), [group["lr"] for group in groups]
    rows = [lrs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns if a scheduler's step does not follow an update
        for _ in range(n_epochs - 1):
            scheduler.step()
            rows.append([group["lr"] for group in groups])
    scheduler.load_state_dict(kept)
    for group, lr in zip(groups, lrs, strict=True):
        group["lr"] = lr
    curve = np.array(rows, dtype=float).max(1)
    return bool(curve.max() - curve.min() >= CHANGE * curve.max())
