"""Programs of trials as real processes: their output, their ends, and the ends of all that they start."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from harness.core.errors import ConfigError
from harness.sweep.programs.command.process import ProgramExit, run_program
from harness.sweep.programs.command.supervisor import _ask_ps
from harness.sweep.programs.command.template import read_command

ENVIRONMENT = {"PATH": os.environ["PATH"]}
DEADLINE_SECONDS = 20.0


def run_script(folder: Path, script: str, **options: object) -> ProgramExit:
    """Run a shell script in `folder`; its log is in the folder `trial`."""
    log = folder / "trial" / "output.log"
    return run_program(["sh", "-c", script], ENVIRONMENT, folder, log, **options)  # type: ignore[arg-type]


def read_log(folder: Path) -> str:
    return (folder / "trial" / "output.log").read_text()


def wait_until(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def read_pids(folder: Path) -> list[int]:
    """Return the process ids that a script has written to the file `pids`, if its lines are complete."""
    file = folder / "pids"
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def test_both_streams_go_to_the_log_and_the_status_is_returned(tmp_path: Path) -> None:
    done = run_script(tmp_path, "echo out; echo err >&2; printf '\\377\\0'; exit 3")
    assert done == ProgramExit(3)
    assert (tmp_path / "trial" / "output.log").read_bytes() == b"out\nerr\n\xff\0"
    assert not [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]


def test_a_signal_is_a_negative_status(tmp_path: Path) -> None:
    assert run_script(tmp_path, "kill -SEGV $$") == ProgramExit(-signal.SIGSEGV)


def test_the_log_can_be_read_while_a_python_program_runs(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    code = "import time; print('step 1'); time.sleep(60)"
    done = run_program(
        [sys.executable, "-c", code], ENVIRONMENT, tmp_path, log,
        should_end=lambda: log.read_text() == "step 1\n", poll_seconds=0.02,
    )  # fmt: skip
    assert done == ProgramExit(-signal.SIGTERM, was_ended=True)


def test_standard_input_is_empty_and_there_is_no_terminal(tmp_path: Path) -> None:
    assert run_script(tmp_path, "cat; (: </dev/tty) 2>/dev/null && echo terminal; echo done").code == 0
    assert read_log(tmp_path) == "done\n"


def test_the_environment_is_the_one_given(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    run_program(["env"], {**ENVIRONMENT, "LR": "1", "PYTHONUNBUFFERED": ""}, tmp_path, log)
    assert set(log.read_text().splitlines()) == {f"PATH={os.environ['PATH']}", "LR=1", "PYTHONUNBUFFERED="}


def test_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    words = ["a b", "", "é", "\udcff", "'\"$x", "x" * 100_000]
    run_program(["printf", "%s\n", *words], ENVIRONMENT, tmp_path, log)
    assert os.fsdecode(log.read_bytes()).split("\n")[:-1] == words


def test_much_output_takes_no_memory_and_a_closed_stdout_no_harm(tmp_path: Path) -> None:
    before = psutil.Process().memory_info().rss
    assert run_script(tmp_path, "head -c 100000000 /dev/zero; exec >&- 2>&-; sleep 0.05; exit 4") == ProgramExit(4)
    assert (tmp_path / "trial" / "output.log").stat().st_size == 100_000_000
    assert psutil.Process().memory_info().rss - before < 20_000_000


def test_a_program_that_is_to_end_may_save_first(tmp_path: Path) -> None:
    script = "trap 'echo saved; exit 5' TERM; sleep 60 & echo ready; wait"
    done = run_script(tmp_path, script, should_end=lambda: "ready" in read_log(tmp_path), poll_seconds=0.02)
    assert done == ProgramExit(5, was_ended=True)
    assert read_log(tmp_path) == "ready\nsaved\n"


STUBBORN = """
trap '' TERM INT HUP
sleep 61 & echo $! >>pids.new
setsid sh -c 'trap "" TERM; echo $$ >>pids.new; sleep 62 & echo $! >>pids.new; wait' &
(setsid sh -c 'echo $$ >>pids.new; exec sleep 63' &)
while [ $(wc -l <pids.new) -lt 4 ]; do sleep 0.01; done
mv pids.new pids
"""


def test_what_does_not_end_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    """Also children in other sessions, and orphans."""
    done = run_script(
        tmp_path, f"{STUBBORN} sleep 64", should_end=lambda: read_pids(tmp_path), poll_seconds=0.02, grace_seconds=0.2
    )
    assert done == ProgramExit(-signal.SIGKILL, was_ended=True, was_killed=True)
    assert len(read_pids(tmp_path)) == 4
    assert not [pid for pid in read_pids(tmp_path) if is_running(pid)]


def test_what_a_program_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    done = run_script(tmp_path, STUBBORN, grace_seconds=0.2)
    assert (done.code, done.was_killed) == (0, False)
    assert done.n_left >= 4  # a shell may not yet have become the program it starts
    assert not [pid for pid in read_pids(tmp_path) if is_running(pid)]


def test_background_processes_may_finish_by_themselves(tmp_path: Path) -> None:
    assert run_script(tmp_path, "(sleep 0.1; echo late) & echo early") == ProgramExit(0)
    assert read_log(tmp_path) == "early\nlate\n"


WORKER = """
import os, sys
from pathlib import Path
from harness.sweep.programs.command.process import run_program
folder = Path(sys.argv[1])
run_program(["sh", "-c", sys.argv[2]], dict(os.environ), folder, folder / "output.log")
"""


def test_a_program_dies_with_a_killed_worker(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), f"{STUBBORN} sleep 64"])
    try:
        wait_until(lambda: read_pids(tmp_path))
        processes = [process.pid for process in psutil.Process(worker.pid).children(recursive=True)]
    finally:
        worker.kill()
        worker.wait()
    pids = {*processes, *read_pids(tmp_path)}
    assert len(pids) >= 6  # a supervisor and a shell besides
    wait_until(lambda: not [pid for pid in pids if is_running(pid)])


def test_a_killed_supervisor_takes_its_program_with_it(tmp_path: Path) -> None:
    def kill_supervisor() -> bool:
        if pids := read_pids(tmp_path):
            psutil.Process(pids[0]).parent().kill()  # type: ignore[union-attr]  # it has one
        return False

    done = run_script(tmp_path, "echo $$ >n; mv n pids; exec sleep 65", should_end=kill_supervisor, poll_seconds=0.02)
    assert done == ProgramExit(-signal.SIGKILL)
    wait_until(lambda: not is_running(read_pids(tmp_path)[0]))


def test_an_error_of_the_sweep_ends_the_program(tmp_path: Path) -> None:
    def fail() -> bool:
        if read_pids(tmp_path):
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run_script(tmp_path, "echo $$ >n; mv n pids; exec sleep 66", should_end=fail, poll_seconds=0.02)
    assert not is_running(read_pids(tmp_path)[0])


def test_other_systems_read_the_process_table_from_ps() -> None:
    """Linux has /proc, and this process has a child here, ps itself, which does not count."""
    found = {process.pid: process for process in _ask_ps()}
    assert found[os.getpid()] == (os.getpid(), os.getppid(), os.getpgid(0), False)
    assert not [process for process in found.values() if process.parent == os.getpid()]


def test_programs_that_cannot_start_are_explained(tmp_path: Path) -> None:
    for name, content, mode in [
        ("plain.sh", "echo", 0o644), ("text.sh", "echo", 0o755), ("wrong.sh", "#!/no/such\n", 0o755)
    ]:  # fmt: skip
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    expected = {
        "no-such-program": "there is no such program on PATH; check its name",
        "./no-such": "there is no such program; check its name",
        "text.sh": "there is no such program on PATH; for the one in this folder write ./text.sh",
        "./plain.sh": "may not be executed; make it executable with chmod +x ./plain.sh",
        "./text.sh": "is not a program; begin it with a line such as #!/bin/sh, or write sh ./text.sh",
        "./wrong.sh": "its first line names a program that does not exist; correct it, or write sh ./wrong.sh",
        str(tmp_path): "is a folder, not a program; check the command",
    }
    for program, problem in expected.items():
        with pytest.raises(ConfigError) as caught:
            run_program([program], ENVIRONMENT, tmp_path, tmp_path / "trial" / "output.log")
        assert str(caught.value) == f"{program}: {problem}"
    with pytest.raises(ConfigError, match="gone: no such file or directory; start the sweep in a folder that exists"):
        run_program(["true"], ENVIRONMENT, tmp_path / "gone", tmp_path / "output.log")


def test_a_trial_pays_its_own_start_only(tmp_path: Path) -> None:
    def measure_seconds() -> float:
        started = time.perf_counter()
        run_program(["true"], ENVIRONMENT, tmp_path, tmp_path / "output.log")
        return time.perf_counter() - started

    assert min(measure_seconds() for _ in range(3)) < 0.5  # 0.05 s on an idle machine


SCRIPT = """
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.5)
parser.add_argument("--rank", type=int, default=4)
parser.add_argument("--amp", action="store_true")
parser.add_argument("--out")
args = parser.parse_args()
print(args.lr, args.rank, args.amp, args.out, os.environ.get("WD"))
"""


def test_a_script_that_nobody_adapted_gets_the_values_of_its_trial(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    words = [sys.executable, "train.py", "--lr", "log(1e-5,1e-3)", "--rank=8,16", "choice(--amp,)", "--out", "{out}/m"]
    template = read_command(words, {}, {**ENVIRONMENT, "WD": "log(1e-3,1)"})
    printed = {}
    for number, values in enumerate([{}, {"WD": 2e-3, "lr": 1e-5, "rank": 16, "amp": "--amp"}]):
        folder = tmp_path / str(number)
        argv, environment = template.render(values, folder, {**ENVIRONMENT, "WD": "log(1e-3,1)"})
        assert run_program(argv, environment, tmp_path, folder / "output.log") == ProgramExit(0)
        printed[number] = (folder / "output.log").read_text()
    assert printed == {0: f"0.5 4 False {tmp_path}/0/m None\n", 1: f"1e-05 16 True {tmp_path}/1/m 0.002\n"}
