"""Report a trial's learning curve to its study, and ask whether to pause or prune it."""

import sys
import warnings
from contextlib import suppress
from typing import Literal

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from harness.core.credentials import hide_credentials_in_text
from harness.sweep.optuna_internals import get_all_trials, get_intermediate_values, should_prune
from harness.sweep.study.pausing import PausingPruner
from harness.sweep.study.rungs import FULL_RUN, to_rung
from harness.sweep.study.storage import DATABASE_ERRORS
from harness.sweep.study.trial_attrs import LAST_STEP, TARGET, is_own_trial

MAX_KEPT = 2000  # values of a run of unknown length, 20 for each percent


Advice = Literal["continue", "pause", "prune"]


class TrialReporter:
    """Reports the values of a trial to its study at shares of the run, and asks whether to pause or prune it.

    A trial pauses at the first value at or after its target, if it can be continued. Trials that may pause are not
    pruned. Nothing is pruned before `warmup_share` of the run, nor at its end. With several objectives, for which
    Optuna has no pruning, nothing is reported. While a database does not answer, values are lost and nothing is pruned:
    a run of hours must not end because of it.

    A program that reports steps and does not say how many there are is taken to run as long as the longest completed
    trial of the study. Until there is one, its values are kept, and nothing is pruned. Beyond that length nothing is
    pruned either. Of its values within one percent of the run, the first one counts. Steps that are not larger than the
    one before are ignored: of several trainings in one trial, such as those of a cross-validation, only the first one
    may be pruned.
    """

    def __init__(self, trial: Trial, warmup_share: float) -> None:
        self._trial, self._warmup_share = trial, warmup_share
        self._target = int(trial.user_attrs.get(TARGET, FULL_RUN))
        self._is_pausing = isinstance(trial.study.pruner, PausingPruner)
        self._reported = set(get_intermediate_values(trial))  # of earlier segments, before it was paused
        self._last_step = self._last_rung = -1
        self._total_steps: int | None = None
        self._kept: list[tuple[int, float]] = []
        self._min_gap = 0.0  # steps between two kept values

    @property
    def fraction_done(self) -> float:
        """Return the share of the run at the last reported step; 0 if the length of the run is unknown."""
        return 0.0 if self._total_steps is None else min(1.0, max(0, self._last_step) / self._total_steps)

    def report_share(self, value: float, fraction_done: float, *, can_pause: bool = False) -> Advice:
        """Report a value at a share of the run, 0 to 1, and return whether to go on.

        Args:
            can_pause: The trial can be continued later from a checkpoint of this moment or an earlier one.
        """
        rung = to_rung(fraction_done)
        if len(self._trial.study.directions) > 1:
            return "continue"
        may_prune = 0 < fraction_done < 1 and fraction_done >= self._warmup_share
        try:
            if rung not in self._reported:
                self._reported.add(rung)
                self._trial.report(value, rung)
            if self._is_pausing and can_pause:
                return "pause" if self._target <= rung < FULL_RUN else "continue"
            return "prune" if may_prune and _ask_pruner(self._trial) else "continue"
        except DATABASE_ERRORS as error:
            reason = hide_credentials_in_text(str(error.__cause__ or error).partition("\n")[0])
            print(f"warning: cannot report to the study ({reason}); the trial continues", file=sys.stderr)
            return "continue"

    def report_step(
        self, value: float, step: int, total_steps: int | None = None, *, can_pause: bool = False
    ) -> Advice:
        """Report a value at a step of the program, and return whether to go on, as `report_share` does."""
        if step <= self._last_step:
            return "continue"
        self._last_step = step
        self._keep_value(step, value)
        self._total_steps = total_steps or self._total_steps or _find_longest_run(self._trial)
        if self._total_steps is None:
            return "continue"
        return self._report_kept(self._total_steps, can_pause)

    def close(self, *, is_complete: bool) -> None:
        """Record the kept values and the number of steps of a complete run. Call it before the trial is ended.

        Kept values of a run that did not complete are dropped, since the shares that they stand for are unknown.
        """
        if not is_complete or self._last_step < 0:
            return
        with suppress(UpdateFinishedTrialError):  # another program ended the trial meanwhile
            self._report_kept(self._total_steps or max(1, self._last_step))
            if self._last_step > 0:
                self._trial.set_user_attr(LAST_STEP, self._last_step)

    def _keep_value(self, step: int, value: float) -> None:
        """Keep the newest value and, of those before, as many as there is room for, evenly spread."""
        if len(self._kept) > 1 and step - self._kept[-2][0] < self._min_gap:
            self._kept.pop()
        self._kept.append((step, value))
        if len(self._kept) > MAX_KEPT:
            del self._kept[1::2]
            self._min_gap = 2 * step / MAX_KEPT

    def _report_kept(self, total_steps: int, can_pause: bool = False) -> Advice:
        """Report what was kept as if the length had always been known; return the strongest advice of any value."""
        kept, self._kept = self._kept, []
        advice: set[Advice] = set()
        for step, value in kept:
            share = min(1.0, step / total_steps)
            if to_rung(share) > self._last_rung:
                self._last_rung = to_rung(share)
                advice.add(self.report_share(value, share, can_pause=can_pause))
        return "prune" if "prune" in advice else "pause" if "pause" in advice else "continue"


def _ask_pruner(trial: Trial) -> bool:
    """Return whether the pruner stops the trial."""
    # Another program's values may mean something else.
    foreign = {other.number for other in get_all_trials(trial.study) if not is_own_trial(other)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, for values that are not finite; an application may make it an error
        return bool(should_prune(trial, foreign))  # some pruners return one of numpy


def _find_longest_run(trial: Trial) -> int | None:
    """Return the most steps that a completed trial of the study has reported; None without one."""
    completed = []
    with suppress(*DATABASE_ERRORS):
        trials = get_all_trials(trial.study)
        completed = [other for other in trials if other.state == TrialState.COMPLETE and is_own_trial(other)]
    steps = [other.user_attrs.get(LAST_STEP) for other in completed]
    return max((step for step in steps if type(step) is int and step > 0), default=None)
