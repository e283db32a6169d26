import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from harness.models import max_positions
from harness.models.head_projection import find_output_head, project_only
from harness.models.ltg_bert import LTGBert
from harness.training.lora import add_adapters, remove_adapters

SIZES = {"vocab_size": 13, "width": 12, "layers": 2, "heads": 3, "hidden": 10, "positions": 24, "position_buckets": 8}


def make_ltg_bert(**changes) -> LTGBert:
    torch.manual_seed(0)
    return LTGBert(**{**SIZES, "dropout": 0.0, **changes})


def randomize_weights(model: LTGBert) -> LTGBert:
    """Widen weights and move biases away from 0, so that every term matters."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.double()


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 13, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("width", "layers", "heads", "hidden", "parameters"),
    [(768, 12, 12, 2048, 98_229_760), (384, 12, 6, 1024, 27_741_952), (192, 12, 3, 512, 8_533_888)],
)
def test_parameter_counts_of_published_sizes(width, layers, heads, hidden, parameters):
    with torch.device("meta"):
        model = LTGBert(vocab_size=16_384, width=width, layers=layers, heads=heads, hidden=hidden)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_relative_position_buckets():
    buckets = LTGBert(vocab_size=2, width=4, layers=1, heads=1, hidden=4).buckets
    assert buckets.shape == (512, 512)
    ahead = buckets[:, 0] - 31  # of queries at 0 to 511 and the key at 0
    assert ahead[:17].tolist() == list(range(17))
    # ceil(ln(|r| / 16) / ln(511 / 16) * 15) + 16, worked out with a calculator
    expected = {17: 17, 20: 17, 21: 18, 25: 18, 26: 19, 32: 20, 64: 23, 127: 25, 256: 29, 511: 31}
    assert {offset: int(ahead[offset]) for offset in expected} == expected
    assert torch.equal(buckets[0] - 31, -ahead)
    assert torch.equal(buckets[100:150, 200:300], buckets[300:350, 400:500])


def layer_norm(x: list[float]) -> list[float]:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return [(value - mean) / math.sqrt(variance + 1e-7) for value in x]


def apply_linear(layer: nn.Linear, x: list[float]) -> list[float]:
    rows, bias = layer.weight.tolist(), [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [sum(w * value for w, value in zip(row, x, strict=True)) + b for row, b in zip(rows, bias, strict=True)]


def affine_layer_norm(norm: nn.LayerNorm, x: list[float]) -> list[float]:
    return [w * v + b for w, v, b in zip(norm.weight.tolist(), layer_norm(x), norm.bias.tolist(), strict=True)]


def add_vectors(x: list[float], y: list[float]) -> list[float]:
    return [a + b for a, b in zip(x, y, strict=True)]


def dot_product(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def expected_bucket(offset: int) -> int:
    """Return the row of the distance table for SIZES: 15 rows, exact up to offset 4, the farthest offset is 23."""
    if abs(offset) <= 4:
        return 7 + offset
    return 7 + int(math.copysign(math.ceil(math.log(abs(offset) / 4) / math.log(23 / 4) * 3) + 4, offset))


def reference_attention(model: LTGBert, layer: nn.Module, xs: list[list[float]]) -> list[list[float]]:
    """Compute attention one head, query and key at a time."""
    attention, size, width = layer.attention, 4, 12
    rows = [affine_layer_norm(model.distance_norm, row) for row in model.distance_embedding.weight.tolist()]
    distances = [apply_linear(attention.query_key, row) for row in rows]
    both, values = ([apply_linear(part, x) for x in xs] for part in (attention.query_key, attention.value))
    made = []
    for i in range(len(xs)):
        heads = []
        for head in range(3):
            queries, keys = slice(head * size, (head + 1) * size), slice(width + head * size, width + (head + 1) * size)
            scores = [
                dot_product(both[i][queries], both[j][keys])
                + dot_product(both[i][queries], distances[expected_bucket(i - j)][keys])
                + dot_product(both[j][keys], distances[expected_bucket(j - i)][queries])
                for j in range(len(xs))
            ]
            weights = [math.exp(score / math.sqrt(3 * size)) for score in scores]
            for at in range(size):
                heads.append(dot_product(weights, [value[queries][at] for value in values]) / sum(weights))
        made.append(apply_linear(attention.out, heads))
    return made


def reference_geglu(mlp: nn.Module, x: list[float]) -> list[float]:
    hidden = apply_linear(mlp.up, x)
    values, gates = hidden[:10], hidden[10:]
    gelu = [g / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3))) for g in gates]
    return apply_linear(mlp.down, layer_norm([value * gate for value, gate in zip(values, gelu, strict=True)]))


def reference_logits(model: LTGBert, tokens: list[int]) -> list[list[float]]:
    """Compute the logits of one sequence by the paper's equations, in float64 and loops."""
    xs = [layer_norm(model.word_embedding.weight[token].tolist()) for token in tokens]
    for layer in model.layers:
        made = reference_attention(model, layer, [layer_norm(x) for x in xs])
        xs = [add_vectors(x, affine_layer_norm(layer.attention_norm, y)) for x, y in zip(xs, made, strict=True)]
        xs = [add_vectors(x, reference_geglu(layer.mlp, layer_norm(x))) for x in xs]
    head = model.prediction_head
    hidden = [apply_linear(head.transform, layer_norm(x)) for x in xs]
    hidden = [layer_norm([h / 2 * (1 + math.erf(h / math.sqrt(2))) for h in row]) for row in hidden]
    return [apply_linear(head.decoder, row) for row in hidden]


def test_logits_match_reference():
    model, tokens = randomize_weights(make_ltg_bert()), random_tokens(2, 19)
    logits = torch.tensor([reference_logits(model, row) for row in tokens.tolist()], dtype=torch.float64)
    torch.testing.assert_close(model(tokens).logits, logits, rtol=1e-9, atol=1e-9)


def test_padding_does_not_affect_logits():
    model, tokens = randomize_weights(make_ltg_bert()), random_tokens(3, 9)
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [0] * 3 + [1] * 6])
    padded = model(tokens, attention_mask=mask).logits
    for row, is_token in enumerate(mask.bool()):
        alone = model(tokens[row : row + 1, is_token]).logits[0]
        torch.testing.assert_close(padded[row, is_token], alone)


def test_packed_documents_score_as_separate_ones():
    model, tokens = randomize_weights(make_ltg_bert()), random_tokens(2, 12)
    document = torch.tensor([[0] * 3 + [1] * 8 + [2] * 1, [0] * 7 + [1] * 5])
    packed = model(tokens, attention_mask=document[:, :, None] == document[:, None, :]).logits
    for row in range(2):
        for is_own in (document[row] == which for which in document[row].unique()):
            torch.testing.assert_close(packed[row, is_own], model(tokens[row : row + 1, is_own]).logits[0])


def test_row_of_padding_stays_finite():
    model, tokens = randomize_weights(make_ltg_bert()), random_tokens(2, 6)
    logits = model(tokens, attention_mask=torch.tensor([[1] * 6, [0] * 6])).logits
    logits.square().mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_initial_weights():
    model = make_ltg_bert(vocab_size=3000, width=48, hidden=96, layers=3)
    std = math.sqrt(2 / (5 * 48))
    of_cut = 0.8796  # of the deviation of a normal distribution, once it is cut at two of them
    sizes = {"word_embedding": 1, "layers.2.attention.query_key": 1, "prediction_head.transform": 1}
    sizes |= {f"layers.{i}.mlp.{part}": math.sqrt(1 / (2 * (1 + i))) for i in range(3) for part in ("up", "down")}
    for name, scale in sizes.items():
        weight = model.get_submodule(name).weight
        assert weight.std().item() == pytest.approx(of_cut * std * scale, rel=0.05), name
        assert weight.abs().max() <= 2 * std * scale * 1.001
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    assert torch.equal(model.layers[1].attention_norm.weight, torch.ones(48))


def test_initial_loss_is_near_uniform():
    model, tokens = make_ltg_bert(vocab_size=500, width=48, heads=4, hidden=96), torch.randint(500, (8, 24))
    loss = nn.functional.cross_entropy(model(tokens).logits.flatten(0, 1), torch.randint(500, (8 * 24,)))
    assert loss.item() == pytest.approx(math.log(500), abs=0.3)


def test_tied_decoder_and_partial_projection():
    model, tokens = randomize_weights(make_ltg_bert()), random_tokens(2, 7)
    assert model.get_output_embeddings().weight is model.word_embedding.weight
    assert "buckets" not in model.state_dict()
    whole, chosen, seen = model(tokens).logits, torch.tensor([0, 5, 9]), []
    hook = model.prediction_head.transform.register_forward_hook(lambda module, given, made: seen.append(made.shape))
    with project_only(chosen, find_output_head(model)):
        torch.testing.assert_close(model(tokens).logits[0], whole.flatten(0, 1)[chosen])
    hook.remove()
    assert seen == [(1, 3, 12)]


@pytest.mark.parametrize(
    "name", ["dropout", "layers.0.dropout", "layers.1.attention.dropout", "prediction_head.dropout"]
)
def test_every_dropout_is_active_only_in_training(name):
    model, tokens = randomize_weights(make_ltg_bert()), random_tokens(1, 8)
    still = model(tokens).logits
    model.get_submodule(name).p = 0.5
    assert not torch.allclose(model(tokens).logits, still)
    assert torch.equal(model.eval()(tokens).logits, still)


def test_dropout_of_distance_embeddings():
    model, tokens, seen = make_ltg_bert(dropout=0.5), random_tokens(1, 8), []
    for layer in model.layers:
        layer.attention.query_key.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(tokens)
    tables = [given for given in seen if given.shape == (15, 12)]
    assert [0.3 < (table == 0).float().mean() < 0.7 for table in tables] == [True, True]
    assert not torch.equal(*tables)


def test_dropout_of_attention_weights():
    model, tokens = randomize_weights(make_ltg_bert()), random_tokens(1, 8)
    nn.init.zeros_(model.distance_norm.weight)
    nn.init.zeros_(model.distance_norm.bias)  # so that there is nothing in the table to drop
    still = model(tokens).logits
    model.layers[1].attention.dropout.p = 0.5
    assert not torch.allclose(model(tokens).logits, still)
    assert torch.equal(model.eval()(tokens).logits, still)


def test_every_parameter_has_a_gradient():
    model = randomize_weights(make_ltg_bert())
    model(random_tokens(2, 24)).logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert model.distance_embedding.weight.grad.abs().sum(1).min() > 0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_keeps_gradients(dropout):
    gradients = []
    for checkpointing in (False, True):
        model = randomize_weights(make_ltg_bert(dropout=dropout, gradient_checkpointing=checkpointing))
        torch.manual_seed(5)
        model(random_tokens(2, 8), attention_mask=torch.ones(2, 8)).logits.square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def make_bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForMaskedLM(BertConfig(vocab_size=13, max_position_embeddings=24, **sizes)).eval()


@pytest.mark.parametrize(
    ("build", "layers", "with_head"),
    [(lambda: make_ltg_bert().eval(), 2 * 5 + 1, 12), (make_bert, 2 * 6 + 1, 14)],
    ids=["LTG-BERT", "BERT"],
)
def test_lora_on_masked_models(build, layers, with_head):
    tokens = random_tokens(2, 8)
    for target_modules, count in (("all_linear", layers), ("with_head", with_head)):
        model = build()
        before = model(tokens).logits
        add_adapters(model, rank=2, alpha=4, dropout=0.0, target_modules=target_modules)
        assert sum(name.endswith("lora_B.default") for name, _ in model.named_modules()) == count
        torch.testing.assert_close(model(tokens).logits, before)
        model(tokens).logits.square().mean().backward()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert all(p.grad.any() for name, p in trained.items() if "lora_B" in name)
        for p in trained.values():
            nn.init.normal_(p, std=0.3)
        changed = model(tokens).logits
        assert not torch.allclose(changed, before)
        merged = remove_adapters(deepcopy(model), merged=True)
        torch.testing.assert_close(merged(tokens).logits, changed, rtol=1e-4, atol=1e-4)


def test_too_long_sequence():
    assert max_positions(make_ltg_bert()) == 24
    with pytest.raises(ValueError, match=r"25 tokens is longer than the model's positions=24"):
        make_ltg_bert()(torch.zeros(1, 25, dtype=torch.long))


@pytest.mark.parametrize("positions", [1, 3, 5])
def test_few_positions_have_exact_buckets(positions):
    buckets = make_ltg_bert(positions=positions).buckets
    offsets = torch.arange(positions)[:, None] - torch.arange(positions)
    assert torch.equal(buckets, offsets + 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "width=12 is not divisible by heads=5"),
        ({"layers": 0}, "layers=0 must be at least 1"),
        ({"hidden": 0}, "hidden=0 must be at least 1"),
        ({"positions": 0}, "positions=0 must be at least 1"),
        ({"position_buckets": 7}, "position_buckets=7 must be even and at least 2"),
        ({"position_buckets": 0}, "position_buckets=0 must be even"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
    ],
)
def test_invalid_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        make_ltg_bert(**changes)
