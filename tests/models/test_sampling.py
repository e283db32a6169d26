"""Sampling, on models whose next token is known."""

from itertools import islice

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from harness.models import is_causal
from harness.models.gpt import GPT, LMOutput
from harness.models.sampling import generate_tokens

SIZES = {"vocab_size": 12, "positions": 4, "layers": 1, "width": 8, "heads": 2, "dropout": 0.0}


class Counting(nn.Module):
    """After n comes n + 1, or, half as likely, n + 2; takes no more than `positions` tokens."""

    positions = 4

    def forward(self, input_ids: torch.Tensor) -> LMOutput:
        assert input_ids.shape[1] <= self.positions
        return LMOutput(torch.stack([self.row(int(last)) for last in input_ids[0]])[None])

    def row(self, last: int) -> torch.Tensor:
        logits = torch.full((12,), -torch.inf)
        logits[(last + 1) % 12], logits[(last + 2) % 12] = torch.tensor(2 / 3).log(), torch.tensor(1 / 3).log()
        return logits


def drawn(prompt: list[int], tokens: int, *, eos_id: int = -1, seed: int = 0, model: nn.Module | None = None, **how):
    generator = torch.Generator().manual_seed(seed)
    how = {"temperature": 1.0, "top_k": None, **how}
    return list(islice(generate_tokens(model or Counting(), prompt, eos_id=eos_id, generator=generator, **how), tokens))


def test_at_temperature_0_and_with_one_candidate_the_likeliest_token_comes_each_time_beyond_the_positions_too():
    assert drawn([1, 2], 12, temperature=0) == [3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2]
    assert drawn([1, 2], 12, top_k=1) == drawn([1, 2], 12, temperature=0)


def test_a_text_ends_before_the_token_that_ends_it():
    assert drawn([1, 2], 50, temperature=0, eos_id=6) == [3, 4, 5]


def test_tokens_come_as_often_as_their_probability_says_and_a_lower_temperature_sharpens_it():
    def share(temperature: float) -> float:
        return sum(drawn([0], 1, seed=seed, temperature=temperature) == [1] for seed in range(400)) / 400

    assert share(1.0) == pytest.approx(2 / 3, abs=0.08)
    assert share(0.5) == pytest.approx(4 / 5, abs=0.07)  # 2^2 to 1


def test_the_same_seed_draws_the_same_text_and_another_seed_another():
    assert drawn([0], 20, seed=5) == drawn([0], 20, seed=5) != drawn([0], 20, seed=6)


def test_a_model_that_sees_what_follows_is_no_causal_one():
    torch.manual_seed(0)
    gpt2 = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=12, n_positions=8, initializer_range=0.5)
    bert = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    assert is_causal(GPT(**SIZES).eval())
    assert is_causal(GPT2LMHeadModel(gpt2).eval())
    assert not is_causal(BertForMaskedLM(BertConfig(vocab_size=12, initializer_range=0.5, **bert)).eval())
