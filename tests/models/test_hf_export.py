"""Our GPT as GPT-2 of transformers: another layout of the same numbers."""

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
def test_our_gpt_and_the_gpt2_made_of_it_have_equal_logits_and_share_or_not_alike(is_tied: bool) -> None:
    model = make_gpt()
    if not is_tied:
        untie_head(model)
        nn.init.normal_(model.head.weight)
    twin = to_transformers_model(model, eos_id=3)
    torch.testing.assert_close(twin(TOKENS).logits, model(TOKENS).logits, rtol=1e-5, atol=1e-5)
    assert (twin.lm_head.weight is twin.transformer.wte.weight) == is_tied == twin.config.tie_word_embeddings
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in model.parameters())


def test_the_gpt2_made_of_ours_drops_out_where_ours_does_and_ends_at_our_token() -> None:
    config = to_transformers_model(make_gpt(), eos_id=3).config
    assert (config.resid_pdrop, config.attn_pdrop, config.embd_pdrop, config.eos_token_id) == (0.1, 0.1, 0.0, 3)


def test_every_parameter_has_the_name_it_has_in_the_gpt2_made_of_ours() -> None:
    model = make_gpt()
    names = [to_transformers_name(name, model) for name in model.state_dict()]
    assert sorted(names) == sorted(to_transformers_model(model, eos_id=3).state_dict())


def test_a_model_that_transformers_has_no_class_for_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="transformers has no class that computes what Linear does"):
        to_transformers_model(nn.Linear(2, 2), eos_id=0)
