"""Start-up time: CPU seconds and heavy imports of `--help` and `--cfg job`, and the time to the first step of the
default run.

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


def measure_cpu_seconds(*arguments: str) -> float:
    """Return the user and system seconds of `run.py ARGUMENTS`."""
    with subprocess.Popen([sys.executable, "run.py", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, arguments
    return usage.ru_utime + usage.ru_stime


def find_heavy_imports(*arguments: str) -> list[str]:
    """Return the heavy packages that `run.py ARGUMENTS` has imported when it ends."""
    code = (
        "import runpy, sys; sys.argv = ['run.py', *sys.argv[1:]]\n"
        "try: runpy.run_path('run.py', run_name='__main__')\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    return json.loads(done.stderr.strip().splitlines()[-1].replace("'", '"'))


def parse_import_seconds(log: str) -> dict[str, float]:
    """Return the cumulative import seconds of the heavy packages from the output of `python -X importtime`."""
    found: dict[str, float] = {}
    for line in log.splitlines():
        match = re.match(r"import time:\s+\d+ \|\s+(\d+) \|\s*(\S+)$", line)
        if match and match[2] in (*HEAVY, "peft", "rich", "hydra", "matplotlib"):
            found[match[2]] = int(match[1]) / 1e6
    return found


def time_default_run(folder: Path, *overrides: str, python: tuple[str, ...] = ()) -> tuple[float, str]:
    """Return the seconds that the default run takes, and its standard error."""
    places = [f"output_dir={folder}/outputs", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    command = [sys.executable, *python, "run.py", "optimizer=adamw", "schedule=cosine", *places, *overrides]
    started_at = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return time.monotonic() - started_at, done.stderr


def read_start_and_first_step(record: Path) -> tuple[float, float]:
    """Return when a recorded run started and when its first logged step ended, in Unix seconds."""
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    step = next(line for line in lines if "train/loss" in line.get("metrics", {}))
    return lines[0]["at_ms"] / 1000, step["at_ms"] / 1000


def time_first_step(folder: Path) -> tuple[float, float, dict[str, float]]:
    """Return the seconds to the start of the run and to its first step, and those spent in imports."""
    started_at = time.time()
    _, log = time_default_run(folder, "loop.log_every=1", python=("-X", "importtime"))
    latest = max(folder.glob("outputs/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    run_started_at, stepped_at = read_start_and_first_step(latest)
    return run_started_at - started_at, stepped_at - started_at, parse_import_seconds(log)


def main() -> None:
    for arguments in (["--help"], ["--cfg", "job"]):
        seconds = statistics.median(measure_cpu_seconds(*arguments) for _ in range(5))
        heavy = ", ".join(find_heavy_imports(*arguments)) or "none"
        print(f"run.py {' '.join(arguments):9} {seconds:.2f} s of CPU; of {', '.join(HEAVY)} it imports {heavy}")
    with tempfile.TemporaryDirectory() as name:
        time_default_run(Path(name))  # trains the base model and creates the store if they are missing
        seconds, _ = time_default_run(Path(name))
        started, stepped, imports = time_first_step(Path(name))
    print(f"default run with everything cached: {seconds:.1f} s")
    print(f"while timing imports: started after {started:.1f} s, first step after {stepped:.1f} s")
    print("imports, with their own imports: " + ", ".join(f"{k} {v:.2f} s" for k, v in sorted(imports.items())))


if __name__ == "__main__":
    main()
