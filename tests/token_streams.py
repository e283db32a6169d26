"""A generated token stream, the same on every machine and Python version, unlike the docs of the standard library."""

from pathlib import Path

import numpy as np
import torch

from harness.data.tokens import TokenData, TokenRows
from harness.models.gpt import GPT
from harness.tasks.causal_lm import CausalLM

VOCABULARY, LENGTH = 64, 24


def make_token_rows(documents: int, seed: int) -> TokenRows:
    """Return documents of 5 to 24 tokens, each token a noisy function of the last. The first third is the prompt."""
    random = np.random.default_rng(seed)
    stream, is_scored, starts, lengths = [0], [False], [], []
    for _ in range(documents):
        length = int(random.integers(5, LENGTH + 1))
        starts.append(len(stream) - 1)
        lengths.append(length)
        token = int(random.integers(1, VOCABULARY))
        for position in range(length):
            stream.append(token)
            is_scored.append(position >= length // 3)
            token = (token * 5 + 7) % VOCABULARY if random.random() < 0.9 else int(random.integers(VOCABULARY))
    scored = np.array(is_scored)
    starts, lengths = np.array(starts), np.array(lengths)
    counts = np.array([scored[s + 1 : s + n + 1].sum() for s, n in zip(starts, lengths, strict=True)])
    return TokenRows(np.array(stream, np.uint16), scored, starts, lengths, counts)


def make_token_data(eval_batch_size: int = 16) -> TokenData:
    val = make_token_rows(50, seed=2)
    return TokenData(
        make_token_rows(200, seed=1), val, vocab_size=VOCABULARY, eos_id=0, unigram_entropy=4.0,
        val_scored_tokens=int(val.is_scored.sum()), val_characters=1000, val_bytes=1200, digest="generated",
        name="generated", source="", tokenizer_path=Path(),
        sequence_length=LENGTH, eval_batch_size=eval_batch_size, shuffle=True, seed=0,
    )  # fmt: skip


def make_generated_lm(eval_batch_size: int = 16, dropout: float = 0.0) -> CausalLM:
    """Return a task with a GPT of two layers and width 32 on the generated stream."""
    torch.manual_seed(0)
    model = GPT(vocab_size=VOCABULARY, positions=LENGTH, layers=2, width=32, heads=4, dropout=dropout)
    return CausalLM(model, make_token_data(eval_batch_size))
