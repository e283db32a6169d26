"""Report a trial's learning curve to its study, and ask whether to prune it."""

from collections.abc import Callable

from optuna.trial import Trial

from harness.sweep.optuna_internals import get_all_trials, should_prune
from harness.sweep.study.trial_attrs import is_own_trial


def to_rung(share: float) -> int:
    """Convert a share of the run to a rung, Optuna's integer step, in percent.

    Runs that spend the same tokens reach the same rungs, whatever their batch size.
    """
    return round(100 * share)


def make_reporter(trial: Trial, warmup_share: float) -> Callable[[float, float], bool]:
    """Return a function that reports a value at a share of the run, and returns whether the pruner says stop.

    Nothing is pruned before `warmup_share` of the run, nor at its end. With several objectives, for which Optuna has no
    pruning, nothing is reported.
    """

    def report(value: float, fraction_done: float) -> bool:
        if len(trial.study.directions) > 1:
            return False
        trial.report(value, to_rung(fraction_done))
        may_prune = 0 < fraction_done < 1 and fraction_done >= warmup_share
        return may_prune and should_prune(trial, _find_foreign_trials(trial))

    return report


def _find_foreign_trials(trial: Trial) -> set[int]:
    """Return the numbers of the study's trials that another program ran: their values may mean something else."""
    return {other.number for other in get_all_trials(trial.study) if not is_own_trial(other)}
