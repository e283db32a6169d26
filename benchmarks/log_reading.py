"""Measure how long it takes to read logs of 200,000 rows in five formats, and how much memory.

python benchmarks/log_reading.py
"""

import argparse
import math
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.importers import read_history


def _loss(rng: random.Random, step: int) -> float:
    return 3 + math.exp(-step / 10_000) + rng.random() / 9


def _plain_line(rng: random.Random, step: int, steps: int) -> str:
    return f"step {step}/{steps} | loss {_loss(rng, step):.4f} | lr {3e-4 * (1 - step / steps):.2e} | grad norm 1.2\n"


def _trainer_line(rng: random.Random, step: int, steps: int) -> str:
    lr = 3e-4 * (1 - step / steps)
    return f"{{'loss': {_loss(rng, step):.4f}, 'grad_norm': 1.2, 'learning_rate': {lr}, 'epoch': {step / 1000:.2f}}}\n"


def _bar(rng: random.Random, step: int, steps: int) -> str:
    share = step / steps
    bar = "#" * round(10 * share)
    return f"steps: {share:4.0%}|{bar:10}| {step}/{steps} [10:00<20:00, 1.20s/it, avr_loss={_loss(rng, step):.4f}]\r"


def _csv_row(rng: random.Random, step: int, steps: int) -> str:
    header = "step,loss,lr,grad_norm\n" if step == 1 else ""
    return f"{header}{step},{_loss(rng, step):.4f},{3e-4 * (1 - step / steps):.2e},1.2\n"


def _json_line(rng: random.Random, step: int, steps: int) -> str:
    return f'{{"step": {step}, "loss": {_loss(rng, step):.4f}, "lr": {3e-4 * (1 - step / steps)}, "grad_norm": 1.2}}\n'


FORMATS: dict[str, Callable[[random.Random, int, int], str]] = {
    "lines of key and value": _plain_line,
    "dictionaries of transformers": _trainer_line,
    "states of a progress bar": _bar,
    "CSV": _csv_row,
    "JSONL": _json_line,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        for name, write_line in FORMATS.items():
            rng, path = random.Random(0), Path(folder) / "train.log"
            path.write_text("".join(write_line(rng, step, rows) for step in range(1, rows + 1)))
            start = time.process_time()
            n_read = len(read_history(path)["train/loss"])
            seconds = time.process_time() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{name:30} {n_read:9,} rows  {seconds:5.1f} s  {peak:5} MB at most so far")


if __name__ == "__main__":
    main()
