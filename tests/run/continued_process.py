"""A process that starts or continues a run, for tests that kill it: FOLDER, the steps to pause at, overrides."""

import sys
from pathlib import Path

from harness.config.compose import compose_config
from harness.core.events import EvalEnd, Event
from harness.record.metrics_file import METRICS_FILE, has_entries
from harness.run.continuation import CannotContinue
from harness.run.run_dir import clear_run_dir
from harness.run.runner import run
from harness.training.policies import Decision, Stop

PROBES = (0.04, 0.12, 0.36)


def main(folder: Path, pauses: list[int], overrides: list[str]) -> str:
    """Run to the next pause or the end, and return the status; start over if nothing can be continued."""

    def policy(event: Event) -> Decision:
        is_due = isinstance(event, EvalEnd) and event.step in pauses
        return Stop("paused", "at a rung") if is_due else None

    def start(is_continued: bool) -> str:
        cfg = compose_config(overrides)
        return run(cfg, [policy], folder=folder, probes=PROBES, is_continued=is_continued).status

    if has_entries(folder / METRICS_FILE):
        try:
            return start(is_continued=True)
        except CannotContinue as error:
            print(error)
    clear_run_dir(folder)
    return start(is_continued=False)


if __name__ == "__main__":
    print("status:", main(Path(sys.argv[1]), [int(step) for step in sys.argv[2].split(",")], sys.argv[3:]), flush=True)
