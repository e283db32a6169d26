"""Conversion of our GPT to GPT-2 of transformers."""

import pytest
import torch
from torch import nn

from harness.models import untie_head
from harness.models.gpt import GPT
from harness.models.hf_export import to_transformers_model, to_transformers_name

TOKENS = torch.arange(24).view(3, 8)


def make_gpt() -> GPT:
    torch.manual_seed(0)
    model = GPT(vocab_size=40, positions=8, layers=2, width=16, heads=2, dropout=0.1).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases and positions too
    return model


@pytest.mark.parametrize("is_tied", [True, False])
def test_converted_gpt_has_equal_logits_and_tying(is_tied: bool) -> None:
    model = make_gpt()
    if not is_tied:
        untie_head(model)
        nn.init.normal_(model.head.weight)
    twin = to_transformers_model(model, eos_id=3)
    torch.testing.assert_close(twin(TOKENS).logits, model(TOKENS).logits, rtol=1e-5, atol=1e-5)
    assert (twin.lm_head.weight is twin.transformer.wte.weight) == is_tied == twin.config.tie_word_embeddings
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in model.parameters())


def test_converted_gpt_keeps_dropout_and_eos() -> None:
    config = to_transformers_model(make_gpt(), eos_id=3).config
    assert (config.resid_pdrop, config.attn_pdrop, config.embd_pdrop, config.eos_token_id) == (0.1, 0.1, 0.0, 3)


def test_converted_parameter_names() -> None:
    model = make_gpt()
    names = [to_transformers_name(name, model) for name in model.state_dict()]
    assert sorted(names) == sorted(to_transformers_model(model, eos_id=3).state_dict())


def test_model_without_equivalent_class() -> None:
    with pytest.raises(ValueError, match="Linear: transformers has no equivalent class"):
        to_transformers_model(nn.Linear(2, 2), eos_id=0)
