"""LoRA adapters on our GPT, GPT-2 and Llama."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from harness.models import untie_head
from harness.models.gpt import GPT
from harness.training.lora import add_adapters, find_target_layers, remove_adapters
from harness.training.optimizers import group_parameters

TOKENS = torch.arange(24).view(3, 8)
GPT2 = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 40, "n_positions": 16}
LLAMA = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


def make_gpt(checkpointing: bool = False) -> GPT:
    return GPT(
        vocab_size=40, positions=16, layers=2, width=16, heads=2, dropout=0.0, gradient_checkpointing=checkpointing
    )


def make_gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0, initializer_range=0.3))


def make_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=40, tie_word_embeddings=True, initializer_range=0.3))


MODELS = pytest.mark.parametrize("build", [make_gpt, make_gpt2, make_llama])
TARGETS = pytest.mark.parametrize("target_modules", ["attention", "all_linear", "with_head"])


def build_model(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().eval()


def build_adapted(build: Callable[[], nn.Module], target_modules="all_linear", **changes) -> nn.Module:
    settings = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": target_modules, **changes}
    return add_adapters(build_model(build), **settings)


def merged_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return remove_adapters(deepcopy(model), merged=True).state_dict()


def compute_loss(model: nn.Module) -> torch.Tensor:
    return nn.functional.cross_entropy(model(TOKENS).logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


def train_briefly(model: nn.Module) -> nn.Module:
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.02)
    for _ in range(4):
        optimizer.zero_grad()
        compute_loss(model).backward()
        optimizer.step()
    return model


@MODELS
@TARGETS
def test_new_adapters_do_not_change_outputs(build, target_modules) -> None:
    assert torch.equal(build_adapted(build, target_modules)(TOKENS).logits, build_model(build)(TOKENS).logits)


@MODELS
def test_new_dora_adapters_change_outputs_by_rounding_only(build) -> None:
    logits = build_adapted(build, "with_head", dora=True)(TOKENS).logits
    torch.testing.assert_close(logits, build_model(build)(TOKENS).logits, rtol=1e-5, atol=1e-5)


@MODELS
@TARGETS
def test_training_changes_all_adapters_and_nothing_else(build, target_modules) -> None:
    model = build_adapted(build, target_modules)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_briefly(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}


@MODELS
def test_a_has_gradient_after_first_step_of_b(build) -> None:
    model = build_adapted(build, "with_head")
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    has_gradient = []
    for _ in range(2):
        optimizer.zero_grad()
        compute_loss(model).backward()
        has_gradient.append({name: bool(p.grad.any()) for name, p in model.named_parameters() if p.requires_grad})
        optimizer.step()
    assert has_gradient[0] == {name: "lora_B" in name for name in has_gradient[0]}
    assert all(has_gradient[1].values())


@pytest.mark.parametrize("build", [lambda: make_gpt(checkpointing=True), make_gpt2])
def test_gradient_checkpointing_does_not_change_gradients(build) -> None:
    def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
        model.train()
        torch.manual_seed(3)
        compute_loss(model).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    model, plain = build_adapted(build, "with_head"), build_adapted(build, "with_head")
    if isinstance(model, GPT):
        plain.gradient_checkpointing = False
    else:
        model.activation_checkpointing_enable({"use_reentrant": False})
    expected, got = gradients(plain), gradients(model)
    assert all(gradient.any() for gradient in got.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient)


@MODELS
@TARGETS
@pytest.mark.parametrize("options", [{}, {"rslora": True}, {"dora": True}], ids=["plain", "rslora", "dora"])
def test_merged_weights_equal_adapted_model(build, target_modules, options) -> None:
    model = train_briefly(build_adapted(build, target_modules, **options))
    plain = build_model(build)
    names = list(plain.state_dict())
    if target_modules == "with_head":
        untie_head(plain)
    merged = merged_state(model)
    assert list(merged) == names
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(TOKENS).logits, model(TOKENS).logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain(TOKENS).logits, build_model(build)(TOKENS).logits, atol=1e-3)


@MODELS
@TARGETS
def test_removing_adapters_restores_model(build, target_modules) -> None:
    model = remove_adapters(train_briefly(build_adapted(build, target_modules)), merged=False)
    assert torch.equal(model(TOKENS).logits, build_model(build)(TOKENS).logits)
    assert not [name for name in model.state_dict() if "lora" in name]


@MODELS
def test_only_adapted_head_is_untied(build) -> None:
    for target_modules, is_shared in (("with_head", False), ("all_linear", True)):
        model = build_adapted(build, target_modules)
        embedding = next(module for module in model.modules() if isinstance(module, nn.Embedding))
        assert (model.get_output_embeddings().weight is embedding.weight) == is_shared
        if hasattr(model, "config"):
            assert model.config.tie_word_embeddings == is_shared


@MODELS
def test_adapted_head_does_not_change_embedding(build) -> None:
    merged = merged_state(train_briefly(build_adapted(build, "with_head")))
    embedding = next(name for name in merged if "wte" in name or "token" in name)
    head = next(name for name in merged if name.endswith("head.weight"))
    assert torch.equal(merged[embedding], build_model(build).state_dict()[embedding])
    assert not torch.equal(merged[head], merged[embedding])


def test_merging_without_adapters_changes_nothing() -> None:
    model = build_model(make_gpt)
    merged = merged_state(model)
    assert list(merged) == list(model.state_dict())
    assert merged["head.weight"].data_ptr() == merged["token_embedding.weight"].data_ptr()


@pytest.mark.parametrize(("rank", "trainable"), [(8, 1_587_848), (16, 3_175_696)])
def test_with_head_trains_documented_number_of_gpt2_parameters(rank, trainable) -> None:
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
        assert sum(p.numel() for p in model.parameters()) == 124_439_808
        add_adapters(model, rank=rank, alpha=16, dropout=0.0, target_modules="with_head")
    assert sum(hasattr(module, "base_layer") for module in model.modules()) == 49
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


@pytest.mark.parametrize(
    ("build", "target_modules", "endings"),
    [
        (make_gpt, "attention", {"qkv", "out"}),
        (make_gpt, "all_linear", {"qkv", "out", "up", "down"}),
        (make_gpt, "with_head", {"qkv", "out", "up", "down", "head"}),
        (make_gpt, ["mlp.up", "qkv"], {"qkv", "up"}),
        (make_gpt, "head", {"head"}),
        (make_gpt2, "attention", {"c_attn", "c_proj"}),
        (make_gpt2, "all_linear", {"c_attn", "c_proj", "c_fc"}),
        (make_llama, "attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (make_llama, ["up_proj", "lm_head"], {"up_proj", "lm_head"}),
    ],
)
def test_find_target_layers(build, target_modules, endings) -> None:
    found = find_target_layers(build_model(build), target_modules)
    assert {name.rpartition(".")[2] for name in found} == endings
    if target_modules == "attention":
        assert all("attn" in name or "attention" in name for name in found)


def test_with_head_selects_layers_of_gpt2_lora_system() -> None:
    named = ["c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "lm_head"]
    assert find_target_layers(build_model(make_gpt2), named) == find_target_layers(build_model(make_gpt2), "with_head")


@pytest.mark.parametrize("target_modules", ["nothing", ["qkv", "nothing"], "kv"])
def test_unmatched_target_is_refused_with_possible_endings(target_modules) -> None:
    with pytest.raises(ValueError, match=r"target_modules=\w+ matches no.*endings down, head, out, qkv, up"):
        build_adapted(make_gpt, target_modules)


@pytest.mark.parametrize("empty", [[], None])
def test_missing_target_is_refused(empty) -> None:
    with pytest.raises(ValueError, match=r"target_modules=\[\]"):
        build_adapted(make_gpt, empty)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank=0 must be a whole number of at least 1; for no adapters choose lora=none"),
        ({"rank": 2.5}, "rank=2.5"),
        ({"alpha": 0}, "alpha=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_invalid_value_is_refused_by_name(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_adapted(make_gpt, **changes)


def test_same_seed_draws_same_adapters() -> None:
    first, second = (train_briefly(build_adapted(make_gpt)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_scale_is_alpha_over_rank_or_its_square_root() -> None:
    def scale(**options):
        return build_adapted(make_gpt, rank=4, alpha=12, **options).blocks[0].mlp.up.scaling["default"]

    assert scale() == 3
    assert scale(rslora=True) == 6


def test_optimizer_treats_head_adapters_as_matrices() -> None:
    groups = group_parameters(build_adapted(make_gpt2, "with_head", dora=True))
    assert {group["name"] for group in groups} == {"matrices", "vectors"}
    vectors = next(group for group in groups if group["name"] == "vectors")
    assert all("lora_magnitude" in name for name, _ in vectors["params"])
