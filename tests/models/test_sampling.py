"""Sampling from models whose next token is known."""

from itertools import islice

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from harness.models import is_causal
from harness.models.gpt import GPT, LMOutput
from harness.models.sampling import generate_tokens

SIZES = {"vocab_size": 12, "positions": 4, "layers": 1, "width": 8, "heads": 2, "dropout": 0.0}


class CountingModel(nn.Module):
    """Predicts n + 1 after n, or half as likely n + 2; takes at most `positions` tokens."""

    positions = 4

    def forward(self, input_ids: torch.Tensor) -> LMOutput:
        assert input_ids.shape[1] <= self.positions
        return LMOutput(torch.stack([self.row(int(last)) for last in input_ids[0]])[None])

    def row(self, last: int) -> torch.Tensor:
        logits = torch.full((12,), -torch.inf)
        logits[(last + 1) % 12], logits[(last + 2) % 12] = torch.tensor(2 / 3).log(), torch.tensor(1 / 3).log()
        return logits


def sample_tokens(
    prompt: list[int], n_tokens: int, *, eos_id: int = -1, seed: int = 0, model: nn.Module | None = None, **options
) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    options = {"temperature": 1.0, "top_k": None, "eos_id": eos_id, "generator": generator, **options}
    return list(islice(generate_tokens(model or CountingModel(), prompt, **options), n_tokens))


def test_greedy_decoding_beyond_positions():
    assert sample_tokens([1, 2], 12, temperature=0) == [3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2]
    assert sample_tokens([1, 2], 12, top_k=1) == sample_tokens([1, 2], 12, temperature=0)


def test_stops_at_eos():
    assert sample_tokens([1, 2], 50, temperature=0, eos_id=6) == [3, 4, 5]


def test_token_frequencies_and_temperature():
    def share(temperature: float) -> float:
        return sum(sample_tokens([0], 1, seed=seed, temperature=temperature) == [1] for seed in range(400)) / 400

    assert share(1.0) == pytest.approx(2 / 3, abs=0.08)
    assert share(0.5) == pytest.approx(4 / 5, abs=0.07)  # 2^2 to 1


def test_seed_determines_text():
    assert sample_tokens([0], 20, seed=5) == sample_tokens([0], 20, seed=5) != sample_tokens([0], 20, seed=6)


def test_is_causal_with_bidirectional_model():
    torch.manual_seed(0)
    gpt2 = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=12, n_positions=8, initializer_range=0.5)
    bert = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    assert is_causal(GPT(**SIZES).eval())
    assert is_causal(GPT2LMHeadModel(gpt2).eval())
    assert not is_causal(BertForMaskedLM(BertConfig(vocab_size=12, initializer_range=0.5, **bert)).eval())
