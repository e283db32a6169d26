"""A trial's learning curve, told to the study, which may end it."""

from collections.abc import Callable

from optuna.trial import Trial

from harness.core.events import EvalEnd, Event
from harness.training.policies import Decision, Policy, Stop


def to_rung(share: float) -> int:
    """A rung: the share of the run's steps, and so of its tokens, as Optuna takes it. Arms of different batch size
    that spend the same tokens meet at the same rungs."""
    return round(100 * share)


def report_and_prune(trial: Trial, warmup_share: float) -> Policy:
    """Report every evaluation; stop where the study's pruner says so, never before `warmup_share` of the run."""

    def policy(event: Event) -> Decision:
        if not isinstance(event, EvalEnd):
            return None
        trial.report(event.val_loss, to_rung(event.fraction_done))
        is_judged = 0 < event.fraction_done < 1 and event.fraction_done >= warmup_share
        if is_judged and trial.should_prune():
            return Stop("pruned", f"validation loss {event.val_loss:.4g} after {event.fraction_done:.0%} of the run")
        return None

    return policy


def stop_when(is_asked: Callable[[], bool]) -> Policy:
    """Ends the run at an evaluation once its worker, or from another host the whole sweep, is asked to stop."""

    def policy(event: Event) -> Decision:
        if isinstance(event, EvalEnd) and is_asked():
            return Stop("interrupted", "the sweep was asked to stop")
        return None

    return policy
