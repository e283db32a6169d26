"""How often each verdict is right: `python benchmarks/diagnosis.py`; `record [NAME...]` makes the real runs anew."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from harness.config import compose  # noqa: E402
from harness.readers import ours  # noqa: E402
from harness.runner import run  # noqa: E402
from tests.verdicts import recorded  # noqa: E402
from tests.verdicts.curves import Curve  # noqa: E402

SMALL = [
    "experiment=smoke", "model.layers=1", "model.width=32", "model.heads=2", "tokenizer.vocab_size=512",
    "data.sequence_length=32", "data.val_share=0.01", "batch.batch_size=16", "loop.max_steps=300", "loop.evals=10",
    "loop.log_every=5", "optimizer.lr=1e-2",
]  # fmt: skip

RUNS: dict[str, tuple[list[str], set[str], set[str]]] = {
    # overrides, what is wrong, what else may rightly be said of it
    **{f"default_{seed}": ([f"seed={seed}"], set(), set()) for seed in range(10)},
}
HELD_OUT: set[str] = set()


def record(names: list[str]) -> None:
    for name in names or RUNS:
        overrides, labels, may = RUNS[name]
        with tempfile.TemporaryDirectory() as folder:
            result = run(compose([*overrides, "observers=quiet", f"output_dir={folder}"]))
            history = ours.read(result.folder / "metrics.jsonl")
        recorded.write(Curve(name, history, frozenset(labels), frozenset(may), name in HELD_OUT))
        print(name, result.status, f"{result.best_val_loss:.4g}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["record"]:
        record(sys.argv[2:])
