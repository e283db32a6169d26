"""Measure what waiting OpenMP threads cost when runs share the CPU cores: python -m benchmarks.competing_runs

Starts 1, 2 and 4 copies of the same small run at once, with threads that spin (OMP_WAIT_POLICY=ACTIVE), as OpenMP
decides (unset) and that sleep (PASSIVE, the project's default), each copy with as many threads as there are cores.
Prints tokens per second of all copies together, as a ratio to the sleeping ones. The rounds are interleaved.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POLICIES = ("ACTIVE", "unset", "PASSIVE")
OVERRIDES = ["experiment=smoke", "start=scratch", "lora=none", "loop.max_steps=40", "loop.log_every=10"]


def start_run(policy: str, folder: Path) -> subprocess.Popen[bytes]:
    unset = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    if policy != "unset":
        environment["OMP_WAIT_POLICY"] = policy
    # OpenMP reads the policy when torch is imported, so importing it first keeps the project from setting PASSIVE.
    code = "import sys, torch; from harness.commands.run import main; sys.exit(main(sys.argv[1:]))"
    places = [f"output_dir={folder}", f"cache_dir={folder.parent}/cache", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *OVERRIDES, *places, f"device.threads={os.cpu_count()}"],
        env=environment, cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def tokens_per_second(folder: Path) -> float:
    """Return the median speed over the logged windows of the run in `folder`, without the first, which warms up."""
    [record] = folder.glob("*/metrics.jsonl")
    rows = [json.loads(line).get("metrics", {}) for line in record.read_text().splitlines()]
    speeds = [row["perf/tokens_per_second"] for row in rows if "perf/tokens_per_second" in row]
    return statistics.median(speeds[1:])


def measure(policy: str, copies: int, root: Path) -> float:
    with tempfile.TemporaryDirectory(dir=root) as name:
        folders = [Path(name) / str(copy) for copy in range(copies)]
        runs = [start_run(policy, folder) for folder in folders]
        if any(run.wait() for run in runs):
            raise SystemExit(f"a run with OMP_WAIT_POLICY {policy} failed")
        return sum(map(tokens_per_second, folders))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for copies in args.copies:
            rounds = [{policy: measure(policy, copies, Path(name)) for policy in POLICIES} for _ in range(args.rounds)]
            for policy in POLICIES:
                speed = statistics.median(found[policy] for found in rounds)
                ratio = statistics.median(found[policy] / found["PASSIVE"] for found in rounds)
                print(f"{copies} at once, {policy:<8} {speed:8.0f} tokens/s, {ratio:.2f} of PASSIVE", flush=True)


if __name__ == "__main__":
    main()
