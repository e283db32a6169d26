"""A process of a trial that does what the values of the trial say: python -m tests.sweep.workers.toy_trial"""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from optuna.trial import Trial

from harness.core.errors import ConfigError
from harness.core.shortage import ShortageError
from harness.core.signals import record_signal, was_signaled
from harness.sweep.study.pruning import Advice
from harness.sweep.study.trial_attrs import TrialResult
from harness.sweep.trial_runner import Reporter, TrialJob
from harness.sweep.workers.trial_processes import TorchrunRunner
from harness.sweep.workers.worker import run_worker

COMMAND = [sys.executable, "-m", "tests.sweep.workers.toy_trial"]


class ToyRunner:
    """Run what the values of the trial name for this rank; other ranks complete."""

    def extend_trial(self, trial: Trial) -> None: ...

    def run_trial(self, job: TrialJob, reporter: Reporter, should_stop: Callable[[], bool]) -> TrialResult:
        rank = os.environ["RANK"]
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / f"pid-{rank}").write_text(str(os.getpid()))
        match job.values.get(rank):
            case "report":
                for percent in (25, 50, 75):
                    if reporter.report_share(percent / 100, percent / 100, can_pause=True) == "pause":
                        return TrialResult("paused", fraction_done=percent / 100)
                return TrialResult("completed", fraction_done=reporter.fraction_done)
            case "fail":
                raise ConfigError("toy.value: 3 must be at most 2")
            case "fill the disk":
                raise ShortageError("no space left on toy")
            case "lose the others":
                return TrialResult("interrupted", "process 0 has lost another one")
            case "die":
                while not (job.folder / "pid-0").exists():  # until the first process handles signals
                    time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGKILL)
            case "wait":
                while not was_signaled():
                    time.sleep(0.05)
                return TrialResult("interrupted", "was told to stop")
            case "hang":
                time.sleep(600)
        return TrialResult("completed", values=(float(rank),))


def make_toy_runner(*_: Any) -> ToyRunner:
    return ToyRunner()


class ToyReporter:
    """Records what is reported, and pauses the trial at a share."""

    fraction_done = 0.75

    def __init__(self, pause_at: float = 1.0) -> None:
        self.pause_at = pause_at
        self.reported: list[tuple[float, float]] = []

    def report_share(self, value: float, fraction_done: float, *, can_pause: bool = False) -> Advice:
        self.reported.append((value, fraction_done))
        return "pause" if can_pause and fraction_done >= self.pause_at else "continue"

    def report_step(
        self, value: float, step: int, total_steps: int | None = None, *, can_pause: bool = False
    ) -> Advice:
        raise NotImplementedError


def run_toy(
    job: TrialJob,
    reporter: ToyReporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    **by_rank: str,
) -> TrialResult:
    job.values.update({rank.removeprefix("rank"): what for rank, what in by_rank.items()})
    runner = TorchrunRunner(ToyRunner(), None, {}, COMMAND, 2)
    return runner.run_trial(job, reporter or ToyReporter(), should_stop)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: record_signal(number))
    sys.exit(run_worker(make_toy_runner, was_signaled))
