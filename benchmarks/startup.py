"""What starting costs: CPU seconds of `--help` and `--cfg job`, what they import, and where the time to the first
step of the default run goes, and how long that takes once the base is cached.

    python benchmarks/startup.py
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "mlflow", "peft")


def cpu_seconds(*arguments: str) -> float:
    """User and system seconds of one child process."""
    with subprocess.Popen([sys.executable, "run.py", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, arguments
    return usage.ru_utime + usage.ru_stime


def imported(*arguments: str) -> list[str]:
    """The heavy packages that `run.py ARGUMENTS` has loaded when it ends."""
    code = (
        "import runpy, sys; sys.argv = ['run.py', *sys.argv[1:]]\n"
        "try: runpy.run_path('run.py', run_name='__main__')\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    return json.loads(done.stderr.strip().splitlines()[-1].replace("'", '"'))


def import_seconds(log: str) -> dict[str, float]:
    """Cumulative seconds of the heavy packages' outermost imports, from `python -X importtime`."""
    found: dict[str, float] = {}
    for line in log.splitlines():
        match = re.match(r"import time:\s+\d+ \|\s+(\d+) \|\s*(\S+)$", line)
        if match and match[2] in (*HEAVY, "peft", "rich", "hydra", "matplotlib"):
            found[match[2]] = int(match[1]) / 1e6
    return found


def default_run(folder: Path, *overrides: str, python: tuple[str, ...] = ()) -> tuple[float, str]:
    """Seconds that the default run takes, and what it says on its standard error."""
    places = [f"output_dir={folder}/outputs", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    command = [sys.executable, *python, "run.py", "optimizer=adamw", "schedule=cosine", *places, *overrides]
    began_at = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return time.monotonic() - began_at, done.stderr


def instants(record: Path) -> tuple[float, float]:
    """When a recorded run started and when its first logged step ended, in seconds since 1970."""
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    step = next(line for line in lines if "train/loss" in line.get("metrics", {}))
    return lines[0]["at_ms"] / 1000, step["at_ms"] / 1000


def first_step(folder: Path) -> tuple[float, float, dict[str, float]]:
    """Seconds to the run's start and to its first step, and the imports' share."""
    began_at = time.time()
    _, log = default_run(folder, "loop.log_every=1", python=("-X", "importtime"))
    latest = max(folder.glob("outputs/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    started_at, stepped_at = instants(latest)
    return started_at - began_at, stepped_at - began_at, import_seconds(log)


def main() -> None:
    for arguments in (["--help"], ["--cfg", "job"]):
        seconds = statistics.median(cpu_seconds(*arguments) for _ in range(5))
        print(
            f"run.py {' '.join(arguments):9} {seconds:.2f} s of CPU, loads of {HEAVY}: {imported(*arguments) or 'none'}"
        )
    with tempfile.TemporaryDirectory() as name:
        default_run(Path(name))  # trains the base and makes the store where they are missing
        seconds, _ = default_run(Path(name))
        started, stepped, imports = first_step(Path(name))
    print(f"default run, the second time: {seconds:.1f} s")
    print(f"with every import timed: started after {started:.1f} s, first step after {stepped:.1f} s")
    print("imports, with what each brings: " + ", ".join(f"{k} {v:.2f} s" for k, v in sorted(imports.items())))


if __name__ == "__main__":
    main()
