"""Delete the checkpoints of trials that are not needed, in the folder of a sweep on this host."""

import shutil
from pathlib import Path

from optuna.study import Study, StudyDirection

from harness.core.files import remove_folder
from harness.sweep.results.summary import find_best_trials, summarize_trials
from harness.sweep.study.pausing import PausingPruner
from harness.sweep.study.rungs import list_rung_costs
from harness.sweep.study.trial_attrs import is_paused

CHECKPOINTS = "checkpoints"
DISK_SHARE = 0.5  # of the free space, for paused trials without a limit


def delete_losing_checkpoints(study: Study, folder: Path, keep: int) -> None:
    """Delete the checkpoints of finished trials, except the `keep` best and the Pareto front.

    Trials that another program ran or ended are left alone.
    """
    finished = [trial for trial in summarize_trials(study) if trial.is_over and trial.status != "added"]
    completed = [trial for trial in finished if trial.status == "completed"]
    completed.sort(key=lambda trial: trial.costs[0])
    front = find_best_trials(completed) if len(study.directions) > 1 and keep else []
    kept = {trial.number for trial in (*completed[:keep], *front)}
    for trial in finished:
        if trial.number not in kept:
            remove_folder(folder / str(trial.number) / CHECKPOINTS)


def delete_paused_checkpoints(study: Study, folder: Path, max_bytes: int | None) -> None:
    """Delete the checkpoints of paused trials until they take at most `max_bytes`; if one is continued, it starts over.

    The trials at the lowest rung go first, of them the worst. Without a limit, it is half of the space that would be
    free without these checkpoints.
    """
    if not isinstance(study.pruner, PausingPruner):
        return
    sign = -1 if study.directions == [StudyDirection.MAXIMIZE] else 1
    paused = [trial for trial in study.get_trials(deepcopy=False) if is_paused(trial)]
    costs = {trial.number: list_rung_costs(trial, study.pruner.rungs, sign) for trial in paused}
    sizes = {number: _count_bytes(folder / str(number) / CHECKPOINTS) for number in costs}
    total = sum(sizes.values())
    limit = DISK_SHARE * (shutil.disk_usage(folder).free + total) if max_bytes is None else max_bytes
    for number in sorted(costs, key=lambda number: (len(costs[number]), [-cost for cost in costs[number][-1:]])):
        if total <= limit:
            return
        remove_folder(folder / str(number) / CHECKPOINTS)
        total -= sizes[number]


def _count_bytes(folder: Path) -> int:
    """Return the size of the files below a folder; a file that is linked several times counts once."""
    sizes = {}
    for path in folder.rglob("*"):
        try:
            stat = path.stat()
        except FileNotFoundError:  # another worker deletes it
            continue
        if path.is_file():
            sizes[stat.st_ino] = stat.st_size
    return sum(sizes.values())
