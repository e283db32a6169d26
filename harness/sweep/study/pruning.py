"""Training policies that report a trial's learning curve to its study and end the run when the study asks."""

from collections.abc import Callable

from optuna.trial import Trial

from harness.core.events import EvalEnd, Event
from harness.sweep.optuna_internals import get_all_trials, should_prune
from harness.sweep.study.trial_attrs import is_own_trial
from harness.training.policies import Decision, Policy, Stop


def to_rung(share: float) -> int:
    """Convert a share of the run's steps to a rung, Optuna's integer step, in percent.

    Runs that spend the same tokens reach the same rungs, whatever their batch size.
    """
    return round(100 * share)


def report_and_prune(trial: Trial, warmup_share: float) -> Policy:
    """Return a policy that reports every evaluation and stops where the pruner says so, after `warmup_share`."""

    def policy(event: Event) -> Decision:
        if not isinstance(event, EvalEnd):
            return None
        trial.report(event.val_loss, to_rung(event.fraction_done))
        may_prune = 0 < event.fraction_done < 1 and event.fraction_done >= warmup_share
        if may_prune and should_prune(trial, _find_foreign_trials(trial)):
            return Stop("pruned", f"validation loss {event.val_loss:.4g} after {event.fraction_done:.0%} of the run")
        return None

    return policy


def _find_foreign_trials(trial: Trial) -> set[int]:
    """Return the numbers of the study's trials that another program ran: their values may mean something else."""
    return {other.number for other in get_all_trials(trial.study) if not is_own_trial(other)}


def stop_when(is_stopping: Callable[[], bool]) -> Policy:
    """Return a policy that interrupts the run at the next evaluation but the last once `is_stopping()` is true."""

    def policy(event: Event) -> Decision:
        if isinstance(event, EvalEnd) and event.fraction_done < 1 and is_stopping():
            return Stop("interrupted", "the sweep was asked to stop")
        return None

    return policy
