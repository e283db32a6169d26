"""The reason that a program failed, from its exit and its log."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.sweep.programs.command.failure import describe_exit, describe_failure, find_disk_shortage
from harness.sweep.programs.command.process import ProgramExit, run_program

TRACEBACK = 'Traceback (most recent call last):\n  File "t.py", line 1, in <module>\n    main()\n    ~~~~^^\n'
LAUNCHER = f"{TRACEBACK}torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\nt.py FAILED\n"

LOGS = {
    f"loss 1\n{TRACEBACK}ValueError: bad lr\n": "ValueError: bad lr (exit status 1)",
    f"{TRACEBACK}ValueError: bad lr\nwandb: Synced 5 files\nbye\n": "ValueError: bad lr (exit status 1)",
    f"{TRACEBACK}KeyError: 'x'\n\nDuring handling of the above exception, another exception occurred:\n\n"
    f"{TRACEBACK}RuntimeError: no key\n": "RuntimeError: no key (exit status 1)",
    f"{TRACEBACK}KeyboardInterrupt\n": "KeyboardInterrupt (exit status 1)",
    f"{TRACEBACK}my.pkg.BadThing: it broke\n": "my.pkg.BadThing: it broke (exit status 1)",
    f"[rank0]: {TRACEBACK.replace(chr(10), chr(10) + '[rank0]: ')}ValueError: bad\n{LAUNCHER}": (
        "ValueError: bad (exit status 1)"
    ),
    LAUNCHER: "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: (exit status 1)",
    "Error executing job with overrides: []\n"
    + TRACEBACK
    + "ValueError: x\n\nSet the environment variable HYDRA_FULL\n": ("ValueError: x (exit status 1)"),
    "\x1b[31m╭──── Traceback (most recent call last) ────╮\x1b[0m\n│ t.py:1 │\n╰────╯\nValueError: bad\n": (
        "ValueError: bad (exit status 1)"
    ),
    "usage: t.py [-h] [--lr LR]\nt.py: error: unrecognized arguments: --l 1\n": (
        "t.py: error: unrecognized arguments: --l 1 (exit status 1)"
    ),
    "sh: 1: pythn: not found\n": "sh: 1: pythn: not found (exit status 1)",
    "t.sh: line 3: foo: command not found\nbye\n": "t.sh: line 3: foo: command not found (exit status 1)",
    "python: can't open file '/x/t.py': [Errno 2] No such file or directory\n": (
        "python: can't open file '/x/t.py': [Errno 2] No such file or directory (exit status 1)"
    ),
    "thread 'main' panicked at src/main.rs:2:5:\nbad\nnote: run with `RUST_BACKTRACE=1`\n": (
        "thread 'main' panicked at src/main.rs:2:5: (exit status 1)"
    ),
    "ERROR: LoadError: bad lr\nStacktrace:\n [1] top\n": "ERROR: LoadError: bad lr (exit status 1)",
    "Error in f(x) : bad lr\nCalls: f\nExecution halted\n": "Error in f(x) : bad lr (exit status 1)",
    "terminate called after throwing an instance of 'std::runtime_error'\n  what():  bad lr\n": (
        "what():  bad lr (exit status 1)"
    ),
    "panic: bad lr\n\ngoroutine 1 [running]:\n": "panic: bad lr (exit status 1)",
    "epoch 1 loss 2.0\nno convergence\n": "exit status 1; its last line: no convergence",
    "error rate 0.5\n" * 60 + "stopped\n" * 60: "exit status 1; its last line: stopped",
    "10%|# \r20%|## \rstopped\n": "exit status 1; its last line: stopped",
    "": "exit status 1, without any output",
    f"{TRACEBACK}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n": (
        "out of memory: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. (exit status 1)"
    ),
    f"{TRACEBACK}MemoryError\n": "out of memory: MemoryError (exit status 1)",
    f"{TRACEBACK}RuntimeError: [enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: x\n": (
        "out of memory: RuntimeError: [enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: x "
        "(exit status 1)"
    ),
    "sort: Cannot allocate memory\nbye\n": "out of memory: sort: Cannot allocate memory (exit status 1)",
    "slurmstepd: error: Detected 1 oom_kill event in StepId=1.\n": (
        "out of memory: slurmstepd: error: Detected 1 oom_kill event in StepId=1. (exit status 1)"
    ),
    f"CUDA out of memory, halving the batch\n{TRACEBACK}ValueError: bad\n": "ValueError: bad (exit status 1)",
}


@pytest.mark.parametrize("log", LOGS)
def test_the_reason_is_the_line_that_says_it(log: str, tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_text(log)
    assert describe_failure(ProgramExit(1), path) == LOGS[log]


def test_a_binary_log_of_any_length_has_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(b"\xff\x00" * 200_000 + b"\n" + b"x" * 5000)
    reason = describe_failure(ProgramExit(1), path)
    assert reason.startswith("exit status 1; its last line: xxx")
    assert len(reason) < 400
    assert describe_failure(ProgramExit(1), tmp_path / "missing.log") == "exit status 1, without any output"


def test_credentials_are_hidden(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_text("error: cannot reach https://me:secret@host/x\n")
    assert "secret" not in describe_failure(ProgramExit(1), path)


@pytest.mark.parametrize(
    ("code", "text"),
    {
        -9: "killed by SIGKILL (out of memory?)",
        -11: "segmentation fault (SIGSEGV)",
        137: "exit status 137, killed by SIGKILL (out of memory?)",
        139: "exit status 139, segmentation fault (SIGSEGV)",
        127: "exit status 127, a command was not found",
        -10: "ended by User defined signal 1 (signal 10)",
        255: "exit status 255",
        3: "exit status 3",
    }.items(),
)
def test_exits_are_put_into_words(code: int, text: str) -> None:
    assert describe_exit(code) == text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a file system of 100 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_not_the_fault_of_a_program(small_disk: Path) -> None:
    log = small_disk / "7" / "output.log"
    done = run_program(["head", "-c", "1000000", "/dev/zero"], {"PATH": "/usr/bin:/bin"}, small_disk, log)
    assert done.code == 1
    assert find_disk_shortage(done, log.parent) == f"no space left on {log.parent} (0 B free)"
    assert find_disk_shortage(ProgramExit(0), log.parent) == ""
    assert find_disk_shortage(ProgramExit(1), Path("/")) == ""
