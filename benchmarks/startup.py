"""What starting costs: CPU seconds of `--help` and `--cfg job`, what they import, and where the time to the first
step of the default run goes.

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


def first_step(folder: Path) -> tuple[float, float, float, dict[str, float]]:
    """Seconds to the run's start, to its first step and to its end, and the imports' share."""
    places = [f"output_dir={folder}/outputs", f"tracking.uri=sqlite:///{folder}/mlflow.db", "loop.log_every=1"]
    began_at = time.time()
    command = [sys.executable, "-X", "importtime", "run.py", "optimizer=adamw", "schedule=cosine", *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    whole = time.time() - began_at
    record = max(folder.glob("outputs/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    step = next(line for line in lines if "train/loss" in line.get("metrics", {}))
    return lines[0]["started_at"] / 1000 - began_at, step["at_ms"] / 1000 - began_at, whole, import_seconds(done.stderr)


def main() -> None:
    for arguments in (["--help"], ["--cfg", "job"]):
        seconds = statistics.median(cpu_seconds(*arguments) for _ in range(5))
        print(
            f"run.py {' '.join(arguments):9} {seconds:.2f} s of CPU, loads of {HEAVY}: {imported(*arguments) or 'none'}"
        )
    with tempfile.TemporaryDirectory() as name:
        first_step(Path(name))  # trains the base and makes the store where they are missing
        started, stepped, whole, imports = first_step(Path(name))
    print(f"default run: started after {started:.1f} s, first step after {stepped:.1f} s, ended after {whole:.1f} s")
    print("imports, with what each brings: " + ", ".join(f"{k} {v:.2f} s" for k, v in sorted(imports.items())))


if __name__ == "__main__":
    main()
