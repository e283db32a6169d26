import pytest
import torch
from torch import nn

from harness.models import max_positions, untie_head
from harness.models.gpt import GPT

SIZES = {"vocab_size": 11, "positions": 12, "layers": 2, "width": 8, "heads": 2, "dropout": 0.0}


def make_gpt(**changes) -> GPT:
    torch.manual_seed(0)
    return GPT(**{**SIZES, **changes})


def randomize_weights(model: GPT) -> GPT:
    """Move biases and positions away from 0, so that every term matters."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def test_parameter_count_of_headlines_gpt():
    with torch.device("meta"):
        model = GPT(vocab_size=16_000, positions=128, layers=6, width=512, heads=8, dropout=0.1)
    assert sum(p.numel() for p in model.parameters()) == 27_172_864


def test_parameter_count_of_tiny_gpt():
    model = GPT(vocab_size=4096, positions=128, layers=3, width=96, heads=4, dropout=0.0)
    assert sum(p.numel() for p in model.parameters()) == 741_216


def test_initial_weights():
    model = make_gpt(width=64, vocab_size=500)
    assert model.head.weight is model.token_embedding.weight
    assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[1].mlp.down.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.position_embedding.weight.any()
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    assert torch.equal(model.norm.weight, torch.ones(64))


def reference_forward(model: GPT, tokens: torch.Tensor) -> torch.Tensor:
    """Compute the logits one head at a time."""
    x = model.token_embedding.weight[tokens] + model.position_embedding.weight[: tokens.shape[1]]
    future = torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool()
    for block in model.blocks:
        q, k, v = block.attention.qkv(block.attention_norm(x)).chunk(3, dim=-1)
        heads = []
        for part in torch.arange(q.shape[-1]).chunk(block.attention.heads):
            scores = q[..., part] @ k[..., part].transpose(1, 2) / len(part) ** 0.5
            heads.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v[..., part])
        x = x + block.attention.out(torch.cat(heads, -1))
        hidden = block.mlp.up(block.mlp_norm(x))
        x = x + block.mlp.down(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)
    return model.norm(x) @ model.token_embedding.weight.T


def test_logits_match_reference():
    model, tokens = randomize_weights(make_gpt()), torch.arange(14).view(2, 7) % 11
    torch.testing.assert_close(model(tokens).logits, reference_forward(model, tokens), rtol=1e-4, atol=1e-4)


def test_causality():
    model = randomize_weights(make_gpt()).eval()
    tokens = torch.randint(0, 11, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = (tokens[0, 7] + 1) % 11
    before, after = model(tokens).logits, model(changed).logits
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_padding_does_not_affect_later_tokens():
    model = randomize_weights(make_gpt()).eval()
    tokens = torch.randint(0, 11, (2, 6))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    other = torch.where(mask.bool(), tokens, (tokens + 1) % 11)
    padded = model(tokens, attention_mask=mask).logits
    assert padded.isfinite().all()
    assert torch.equal(padded[mask.bool()], model(other, attention_mask=mask).logits[mask.bool()])
    torch.testing.assert_close(padded[0], model(tokens).logits[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(padded[1, :1], model(tokens[1:, :1]).logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_keeps_gradients(dropout):
    tokens = torch.randint(0, 11, (2, 6))
    gradients = []
    for checkpointing in (False, True):
        model = randomize_weights(make_gpt(dropout=dropout, gradient_checkpointing=checkpointing)).train()
        torch.manual_seed(5)
        model(tokens).logits.square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("silenced", "on_attention", "on_branches", "acts"),
    [
        (["mlp.down"], 0.5, 0.0, True),
        (["mlp.down"], 0.0, 0.5, True),
        (["attention.out"], 0.0, 0.5, True),
        (["attention.out", "mlp.down"], 0.5, 0.5, False),
    ],
)
def test_places_of_dropout(silenced, on_attention, on_branches, acts):
    model, tokens = randomize_weights(make_gpt()), torch.arange(8).view(1, 8)
    for block in model.blocks:
        block.attention.dropout, block.dropout.p = on_attention, on_branches
        for name in silenced:
            for parameter in block.get_submodule(name).parameters():
                nn.init.zeros_(parameter)
    assert torch.equal(model(tokens).logits, model(tokens).logits) != acts
    model.eval()
    assert torch.equal(model(tokens).logits, model(tokens).logits)


def test_too_long_sequence():
    assert max_positions(make_gpt()) == 12
    with pytest.raises(ValueError, match=r"13 tokens is longer than the model's positions=12"):
        make_gpt()(torch.zeros(1, 13, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "width=8 is not divisible by heads=3"),
        ({"layers": 0}, "layers=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_invalid_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        make_gpt(**changes)


def test_max_positions_without_limit():
    assert max_positions(nn.Linear(2, 2)) is None


def test_untie_head_keeps_logits():
    model, tokens = randomize_weights(make_gpt()), torch.arange(8).view(1, 8)
    before = model(tokens).logits
    untie_head(model)
    assert torch.equal(model(tokens).logits, before)
    model.head.weight.data.zero_()
    assert model.token_embedding.weight.any()


def test_dropout_of_every_block():
    model = make_gpt(dropout=0.3)
    assert [(block.attention.dropout, block.dropout.p) for block in model.blocks] == [(0.3, 0.3)] * 2
