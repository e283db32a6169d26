"""Memory of the 27M model: growth of the resident set after imports, for our run and for a bare PyTorch loop.

Each runs in its own process.

    python benchmarks/memory.py
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

BATCH, LENGTH, VOCABULARY, STEPS = 8, 128, 16_000, 8
ARMS = ("bare", "ours")
ROOT = Path(__file__).resolve().parents[1]


def resident_mib() -> float:
    """Return the current resident set in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024**2


class PeakMemory:
    """Samples the resident set every 5 ms. The kernel's own peak would include the imports."""

    def __enter__(self) -> "PeakMemory":
        self.base = self.highest = resident_mib()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.is_set():
            self.highest = max(self.highest, resident_mib())
            time.sleep(0.005)


def run_bare_loop() -> tuple[float, float]:
    import torch
    from torch.nn import functional as F

    from harness.models.gpt import GPT

    with PeakMemory() as peak:
        torch.manual_seed(0)
        model = GPT(vocab_size=VOCABULARY, positions=LENGTH, layers=6, width=512, heads=8, dropout=0.1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(STEPS):
            tokens = torch.randint(VOCABULARY, (BATCH, LENGTH + 1))
            optimizer.zero_grad()
            logits = model(tokens[:, :-1]).logits
            F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return peak.base, peak.highest


def run_ours() -> tuple[float, float]:
    import matplotlib.pyplot  # noqa: F401, imported here so that it counts as an import
    import mlflow.tracking  # noqa: F401

    import harness.run.runner
    from harness.config.compose import compose_config

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = random.Random(0)
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["".join(generator.choices(letters, k=generator.randint(3, 9))) for _ in range(20_000)]
        lines = [" ".join(generator.choices(words, k=10)) for _ in range(20_000)]
        (folder / "text.txt").write_text("\n".join(lines))
        chosen = [
            "experiment=smoke", "model=gpt_headlines", "data=text", f"data.source.path={folder}/text.txt",
            "tokenizer=bpe", f"tokenizer.vocab_size={VOCABULARY}", f"data.sequence_length={LENGTH}",
            f"data.eval_batch_size={BATCH}", "data.val_fraction=0.01", f"batch.batch_size={BATCH}",
            f"loop.max_steps={STEPS}", "loop.evals=1", f"cache_dir={folder}/cache", f"output_dir={folder}/outputs",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
        ]  # fmt: skip
        # Another process prepares the data and the MLflow store, which the bare loop does not have.
        subprocess.run([sys.executable, ROOT / "run.py", *chosen, "loop.max_steps=1"], capture_output=True, check=True)
        with PeakMemory() as peak:
            harness.runner.run(compose_config(chosen))
    return peak.base, peak.highest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arm", choices=ARMS)
    arm = parser.parse_args().arm
    if arm:
        base, highest = {"bare": run_bare_loop, "ours": run_ours}[arm]()
        print(f"ARM {base:.0f} {highest:.0f}")
        return
    growth = {}
    for arm in ARMS:
        done = subprocess.run([sys.executable, __file__, "--arm", arm], capture_output=True, text=True, check=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith("ARM"))
        base, highest = map(float, line.split()[1:])
        growth[arm] = highest - base
        print(f"{arm:5} {base:5.0f} MiB after imports, {highest:5.0f} MiB at most: grows by {growth[arm]:.0f} MiB")
    print(f"ours grows {growth['ours'] / growth['bare']:.3f} times as much as the bare loop")


if __name__ == "__main__":
    main()
