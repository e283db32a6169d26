"""Kill runs, workers and sweeps at random moments and resume them: nothing is lost, repeated or changed.

`KILLS=6,4,3,4,4` sets the numbers of killed runs, workers and sweeps and of signaled runs and sweeps; the default is
the whole campaign, 90 minutes on two busy cores. `KILLS_TABLE` names the file that receives the table of results.
"""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.systems.kill_checks import check_run, check_run_status, check_sweep, is_completed
from tests.systems.kill_tools import (
    SIGNALS,
    WORKER_SECONDS,
    Tally,
    check_interruption,
    interrupt_process,
    is_alive,
    kill_process,
    poll_until,
    wait_for_first_line,
    write_table,
)
from tests.systems.killed_runs import (
    RunCase,
    find_moment,
    maps_files_below,
    plan_moments,
    wait_for_moment,
    write_text,
)
from tests.systems.killed_sweeps import (
    WORKER_TARGETS,
    SweepCase,
    find_sweep_moment,
    kill_worker,
    plan_sweep_moments,
    wait_for_sweep_moment,
)

COUNTS = dict(
    zip(
        ("runs", "workers", "sweeps", "signaled runs", "signaled sweeps"),
        map(int, os.environ.get("KILLS", "100,60,40,24,24").split(",")),
        strict=True,
    )
)
SEED = 12
MAX_RESTARTS = 5  # of a case that nobody kills any more, until it has completed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tally]]:
    """Return the file of the table and the tallies of the tests so far."""
    return Path(os.environ.get("KILLS_TABLE") or tmp_path_factory.mktemp("kills") / "table.md"), []


@pytest.fixture
def tallies(table: tuple[Path, list[Tally]]) -> Iterator[list[Tally]]:
    """Collect the tally of a test, and write the table after it: the whole campaign takes long."""
    path, tallies = table
    yield tallies
    write_table(path, tallies)
    print(f"\n{path}\n{path.read_text()}")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the text and the folder of a run that nobody kills."""
    folder = tmp_path_factory.mktemp("reference")
    write_text(folder / "text.txt")
    case = RunCase(folder / "case", folder / "text.txt")
    case.start_process()
    assert case.end_process() == 0, case.log.read_text()
    [run] = case.list_runs()
    return folder / "text.txt", run


def complete_run(case: RunCase, tally: Tally) -> None:
    """Resume the run until it has completed, unless its record says that it has."""
    for _ in range(MAX_RESTARTS):
        if any(is_completed(run) for run in case.list_runs()):
            return
        case.start_process()
        errors = Path(f"{case.log}.err")
        status = case.end_process()
        if status:
            tally.add_problem("other", f"{case.folder.name}: exit status {status}: {errors.read_text()[-300:].strip()}")
        if status == 2:
            return


def test_killed_runs_lose_nothing(reference, tmp_path, tallies) -> None:
    text, completed = reference
    tally, chance = Tally("run killed"), random.Random(SEED)
    tallies.append(tally)
    for number, plan in enumerate(plan_moments(chance)):
        case = RunCase(tmp_path / f"case-{number}", text)
        for target in plan[: COUNTS["runs"] - tally.n_kills]:
            process = case.start_process()
            if wait_for_moment(case, target, chance):
                has_mapped_data = maps_files_below(process.pid, case.cache)
                if kill_process(process):
                    tally.moments[find_moment(case, has_mapped_data=has_mapped_data)] += 1
            case.end_process()
        complete_run(case, tally)
        check_run(case, completed, tally)
        if tally.n_kills >= COUNTS["runs"]:
            break
    tally.stop_clock()
    assert not tally.list_problems()


@pytest.fixture(scope="module")
def sweep_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the cache that all sweeps share."""
    return tmp_path_factory.mktemp("sweeps") / "cache"


def complete_sweep(case: SweepCase, tally: Tally) -> None:
    """Run the same command until the sweep has completed."""
    for _ in range(MAX_RESTARTS):
        process = case.start_process()
        if process.wait(600) == 0:
            return
        errors = Path(f"{case.log}.err").read_text()
        tally.add_problem("other", f"{case.folder.name}: exit status {process.returncode}: {errors[-300:].strip()}")


def test_killed_workers_lose_nothing(reference, sweep_cache, tmp_path, tallies) -> None:
    tally, chance = Tally("worker killed"), random.Random(SEED)
    tallies.append(tally)
    wanted = COUNTS["workers"]
    for number in range(wanted):
        case = SweepCase(tmp_path / f"case-{number}", reference[0], sweep_cache, n_trials=2 + 2 * min(wanted, 12))
        n_before = tally.n_kills
        process = case.start_process()
        while process.poll() is None and tally.n_kills < min(n_before + 12, wanted):
            kill_worker(case, chance.choice(list(WORKER_TARGETS)), chance, tally)
            case.remember_ended(tally)
        if process.wait(600) != 0:  # three workers died before any trial ended
            tally.notes["sweeps that stopped"] += 1
            complete_sweep(case, tally)
        check_sweep(case, tally)
        if tally.n_kills >= wanted:
            break
    tally.stop_clock()
    assert not tally.list_problems()


def test_killed_sweeps_lose_nothing(reference, sweep_cache, tmp_path, tallies) -> None:
    tally, chance = Tally("sweep killed"), random.Random(SEED)
    tallies.append(tally)
    wanted = COUNTS["sweeps"]
    for number, plan in enumerate(plan_sweep_moments(chance)):
        case = SweepCase(tmp_path / f"case-{number}", reference[0], sweep_cache, n_trials=6, is_tracked=number % 2 == 0)
        for target in plan[: wanted - tally.n_kills]:
            process = case.start_process()
            if wait_for_sweep_moment(case, target, chance):
                workers = case.list_workers()
                if kill_process(process):
                    tally.moments[find_sweep_moment(case, len(workers))] += 1
                if not poll_until(lambda workers=workers: not any(map(is_alive, workers)), WORKER_SECONDS, 0.05):
                    tally.add_problem("leftover processes", f"{case.folder.name}: a worker after {WORKER_SECONDS} s")
            process.wait(600)
            case.remember_ended(tally)
        complete_sweep(case, tally)
        check_sweep(case, tally)
        if tally.n_kills >= wanted:
            break
    tally.stop_clock()
    assert not tally.list_problems()


def choose_signals(chance: random.Random, count: int) -> list[tuple[int, bool]]:
    """Return signals and whether each is sent twice, in random order, each combination about equally often."""
    combinations = [(number, is_double) for number in SIGNALS for is_double in (False, True)]
    chosen = [combinations[index % len(combinations)] for index in range(count)]
    chance.shuffle(chosen)
    return chosen


def test_signaled_runs_lose_nothing(reference, tmp_path, tallies) -> None:
    text, completed = reference
    tally, chance = Tally("run signaled"), random.Random(SEED)
    tallies.append(tally)
    signals = choose_signals(chance, COUNTS["signaled runs"])
    for number, plan in enumerate(plan_moments(chance)):
        case = RunCase(tmp_path / f"case-{number}", text)
        for target in plan[: len(signals)]:
            process, errors = case.start_process(), Path(f"{case.log}.err")
            wait_for_first_line(process)
            if wait_for_moment(case, target, chance):
                signal_number, is_double = signals.pop()
                moment = find_moment(case, has_mapped_data=maps_files_below(process.pid, case.cache))
                tally.moments[moment] += 1
                interrupt_process(process, signal_number, is_double, chance.uniform(0, 0.3))
                place = f"{case.folder.name}: {signal.Signals(signal_number).name}{' twice' * is_double} at {moment}"
                check_interruption(process, signal_number, errors, place, tally)
                check_run_status(case.find_current(), place, process.returncode, tally)
            case.end_process()
        complete_run(case, tally)
        check_run(case, completed, tally)
        if not signals:
            break
    tally.stop_clock()
    assert not tally.list_problems()


def test_signaled_sweeps_lose_nothing(reference, sweep_cache, tmp_path, tallies) -> None:
    tally, chance = Tally("sweep signaled"), random.Random(SEED)
    tallies.append(tally)
    signals = choose_signals(chance, COUNTS["signaled sweeps"])
    for number, plan in enumerate(plan_sweep_moments(chance)):
        case = SweepCase(tmp_path / f"case-{number}", reference[0], sweep_cache, n_trials=6, is_tracked=number % 2 == 0)
        for target in plan[: len(signals)]:
            process = case.start_process()
            wait_for_first_line(process)
            if wait_for_sweep_moment(case, target, chance):
                signal_number, is_double = signals.pop()
                moment = find_sweep_moment(case, len(case.list_workers()))
                tally.moments[moment] += 1
                interrupt_process(process, signal_number, is_double, chance.uniform(0, 0.3))
                place = f"{case.folder.name}: {signal.Signals(signal_number).name}{' twice' * is_double} at {moment}"
                check_interruption(process, signal_number, Path(f"{case.log}.err"), place, tally)
                for trial in case.read_trials():
                    if trial.state == TrialState.RUNNING:
                        tally.add_problem("other", f"{place}: trial {trial.number} still counts as running")
            process.wait(600)
            case.remember_ended(tally)
        complete_sweep(case, tally)
        check_sweep(case, tally)
        if not signals:
            break
    tally.stop_clock()
    assert not tally.list_problems()
