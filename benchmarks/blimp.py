"""Measure sentences scored per CPU second, in batches and one at a time, with a masked and a causal model.

    python benchmarks/blimp.py --data blimp.jsonl.gz

Weights are random. The tokenizers are trained on Python's documentation and split BLiMP's words into more tokens than
one trained on books would.
"""

import argparse
import statistics
import time

import torch

from harness.config.compose import compose_config
from harness.config.validation import validate_config
from harness.core.distributed import ProcessGroup
from harness.data.blimp import MinimalPair, read_minimal_pairs
from harness.data.tokenizers import Tokenizer
from harness.run.build import build_task
from harness.tasks.minimal_pairs import build_likelihood, compare_pairs

ARMS = {
    "LTG-BERT xs, masked": ["experiment=ltg_bert"],
    "GPT, causal": ["experiment=smoke", "model=gpt_small", "tokenizer=bpe", "tokenizer.vocab_size=4096"],
}


def time_scoring(task: object, pairs: list[MinimalPair], batch_tokens: int) -> tuple[float, int]:
    """Return CPU seconds for all `pairs` including tokenisation, and their number of tokens."""
    started_at = time.process_time()
    tokenizer = Tokenizer.load(task.data.tokenizer_path)
    score = build_likelihood(task.model, tokenizer, is_masked=tokenizer.mask_id is not None, batch_tokens=batch_tokens)
    good, bad = tokenizer.encode([pair.good for pair in pairs]), tokenizer.encode([pair.bad for pair in pairs])
    compare_pairs(score, good, bad)
    return time.process_time() - started_at, sum(map(len, good)) + sum(map(len, bad))


def measure_model(arm: str, overrides: list[str], chosen: argparse.Namespace) -> None:
    """Print the rate of each batch size; rounds alternate between the sizes."""
    cfg = compose_config([*overrides, "device=cpu"])
    task = build_task(cfg, validate_config(cfg), ProcessGroup(torch.device("cpu")))
    task.model.eval()
    many = read_minimal_pairs(chosen.data, chosen.per_paradigm)
    few = many[:: max(1, len(many) // 16)]
    rates: dict[int, list[float]] = {size: [] for size in (1, *chosen.batch_tokens)}
    for _ in range(chosen.rounds):
        for size, found in rates.items():
            pairs = few if size == 1 else many
            took, tokens = time_scoring(task, pairs, size)
            found.append(2 * len(pairs) / took)
    sentences, alone = 2 * len(many), statistics.median(rates[1])
    print(f"{arm}: {sentences:,} sentences of {tokens / sentences:.1f} tokens, {torch.get_num_threads()} threads")
    for size, found in rates.items():
        rate, name = statistics.median(found), f"batches of {size:,} tokens" if size > 1 else "one pass at a time"
        spread = f"({min(found):.0f} to {max(found):.0f}), {rate / alone:.1f} x"
        print(f"  {name:24} {rate:8.0f} sentences/s {spread}; all in {sentences / rate:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="BLiMP file or folder")
    parser.add_argument(
        "--per-paradigm", type=int, default=20, help="pairs per paradigm in batches; 16 pairs are scored one at a time"
    )
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    for arm, overrides in ARMS.items():
        measure_model(arm, overrides, chosen)


if __name__ == "__main__":
    main()
