"""Kill runs, workers and sweeps at random moments and resume them: nothing is lost, repeated or changed.

`KILLS=6,4,3,4,4` sets the numbers of killed runs, workers and sweeps and of signaled runs and sweeps; the default is
the whole campaign of about 40 minutes. `KILLS_TABLE` names the file that receives the results as a table.
"""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

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
from tests.systems.life_checks import check_life, check_run_status, check_sweep, is_completed
from tests.systems.run_lives import (
    RunLife,
    find_moment,
    maps_files_below,
    plan_moments,
    wait_for_moment,
    write_text,
)
from tests.systems.sweep_lives import (
    WORKER_TARGETS,
    SweepLife,
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
MAX_RESTARTS = 5  # of a life that nobody kills any more, until it has completed

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
    life = RunLife(folder / "life", folder / "text.txt")
    life.start_process()
    assert life.end_process() == 0, life.log.read_text()
    [run] = life.list_runs()
    return folder / "text.txt", run


def complete_life(life: RunLife, tally: Tally) -> None:
    """Resume the run until it has completed, unless its record says that it has."""
    for _ in range(MAX_RESTARTS):
        if any(is_completed(run) for run in life.list_runs()):
            return
        life.start_process()
        errors = Path(f"{life.log}.err")
        status = life.end_process()
        if status:
            tally.add_problem("other", f"{life.folder.name}: exit status {status}: {errors.read_text()[-300:].strip()}")
        if status == 2:
            return


def test_killed_runs_lose_nothing(reference, tmp_path, tallies) -> None:
    text, completed = reference
    tally, chance = Tally("run killed"), random.Random(SEED)
    tallies.append(tally)
    for number, plan in enumerate(plan_moments(chance)):
        life = RunLife(tmp_path / f"life-{number}", text)
        for target in plan[: COUNTS["runs"] - tally.n_kills]:
            process = life.start_process()
            if wait_for_moment(life, target, chance):
                has_mapped_data = maps_files_below(process.pid, life.cache)
                if kill_process(process):
                    tally.moments[find_moment(life, has_mapped_data=has_mapped_data)] += 1
            life.end_process()
        complete_life(life, tally)
        check_life(life, completed, tally)
        if tally.n_kills >= COUNTS["runs"]:
            break
    tally.stop_clock()
    assert not tally.list_problems()


@pytest.fixture(scope="module")
def sweep_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the cache that all sweeps share."""
    return tmp_path_factory.mktemp("sweeps") / "cache"


def complete_sweep(life: SweepLife, tally: Tally) -> None:
    """Run the same command until the sweep has completed."""
    for _ in range(MAX_RESTARTS):
        process = life.start_process()
        if process.wait(600) == 0:
            return
        errors = Path(f"{life.log}.err").read_text()
        tally.add_problem("other", f"{life.folder.name}: exit status {process.returncode}: {errors[-300:].strip()}")


def test_killed_workers_lose_nothing(reference, sweep_cache, tmp_path, tallies) -> None:
    tally, chance = Tally("worker killed"), random.Random(SEED)
    tallies.append(tally)
    wanted = COUNTS["workers"]
    for number in range(wanted):
        life = SweepLife(tmp_path / f"life-{number}", reference[0], sweep_cache, n_trials=2 + 2 * min(wanted, 12))
        n_before = tally.n_kills
        process = life.start_process()
        while process.poll() is None and tally.n_kills < min(n_before + 12, wanted):
            kill_worker(life, chance.choice(list(WORKER_TARGETS)), chance, tally)
            life.remember_ended(tally)
        if process.wait(600) != 0:  # three workers died before any trial ended
            tally.notes["sweeps that stopped"] += 1
            complete_sweep(life, tally)
        check_sweep(life, tally)
        if tally.n_kills >= wanted:
            break
    tally.stop_clock()
    assert not tally.list_problems()


def test_killed_sweeps_lose_nothing(reference, sweep_cache, tmp_path, tallies) -> None:
    tally, chance = Tally("sweep killed"), random.Random(SEED)
    tallies.append(tally)
    wanted = COUNTS["sweeps"]
    for number, plan in enumerate(plan_sweep_moments(chance)):
        life = SweepLife(tmp_path / f"life-{number}", reference[0], sweep_cache, n_trials=6, is_tracked=number % 2 == 0)
        for target in plan[: wanted - tally.n_kills]:
            process = life.start_process()
            if wait_for_sweep_moment(life, target, chance):
                workers = life.list_workers()
                if kill_process(process):
                    tally.moments[find_sweep_moment(life, len(workers))] += 1
                if not poll_until(lambda workers=workers: not any(map(is_alive, workers)), WORKER_SECONDS, 0.05):
                    tally.add_problem("leftover processes", f"{life.folder.name}: a worker after {WORKER_SECONDS} s")
            process.wait(600)
            life.remember_ended(tally)
        complete_sweep(life, tally)
        check_sweep(life, tally)
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
        life = RunLife(tmp_path / f"life-{number}", text)
        for target in plan[: len(signals)]:
            process, errors = life.start_process(), Path(f"{life.log}.err")
            wait_for_first_line(process)
            if wait_for_moment(life, target, chance):
                signal_number, is_double = signals.pop()
                moment = find_moment(life, has_mapped_data=maps_files_below(process.pid, life.cache))
                tally.moments[moment] += 1
                interrupt_process(process, signal_number, is_double, chance.uniform(0, 0.3))
                place = f"{life.folder.name}: {signal.Signals(signal_number).name}{' twice' * is_double} at {moment}"
                check_interruption(process, errors, place, tally)
                check_run_status(life.find_current(), place, process.returncode, tally)
            life.end_process()
        complete_life(life, tally)
        check_life(life, completed, tally)
        if not signals:
            break
    tally.stop_clock()
    assert not tally.list_problems()


def test_signaled_sweeps_lose_nothing(reference, sweep_cache, tmp_path, tallies) -> None:
    tally, chance = Tally("sweep signaled"), random.Random(SEED)
    tallies.append(tally)
    signals = choose_signals(chance, COUNTS["signaled sweeps"])
    for number, plan in enumerate(plan_sweep_moments(chance)):
        life = SweepLife(tmp_path / f"life-{number}", reference[0], sweep_cache, n_trials=6, is_tracked=number % 2 == 0)
        for target in plan[: len(signals)]:
            process = life.start_process()
            wait_for_first_line(process)
            if wait_for_sweep_moment(life, target, chance):
                signal_number, is_double = signals.pop()
                moment = find_sweep_moment(life, len(life.list_workers()))
                tally.moments[moment] += 1
                interrupt_process(process, signal_number, is_double, chance.uniform(0, 0.3))
                place = f"{life.folder.name}: {signal.Signals(signal_number).name}{' twice' * is_double} at {moment}"
                check_interruption(process, Path(f"{life.log}.err"), place, tally)
                for trial in life.read_trials():
                    if trial.state == TrialState.RUNNING:
                        tally.add_problem("other", f"{place}: trial {trial.number} still counts as running")
            process.wait(600)
            life.remember_ended(tally)
        complete_sweep(life, tally)
        check_sweep(life, tally)
        if not signals:
            break
    tally.stop_clock()
    assert not tally.list_problems()
