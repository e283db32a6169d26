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


def our_gpt(checkpointing: bool = False) -> GPT:
    return GPT(
        vocab_size=40, positions=16, layers=2, width=16, heads=2, dropout=0.0, gradient_checkpointing=checkpointing
    )


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0, initializer_range=0.3))


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=40, tie_word_embeddings=True, initializer_range=0.3))


MODELS = pytest.mark.parametrize("build", [our_gpt, gpt2, llama])
TARGETS = pytest.mark.parametrize("target_modules", ["attention", "all_linear", "with_head"])


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().eval()


def adapted(build: Callable[[], nn.Module], target_modules="all_linear", **changes) -> nn.Module:
    settings = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": target_modules, **changes}
    return add_adapters(made(build), **settings)


def merged_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return remove_adapters(deepcopy(model), merged=True).state_dict()


def loss(model: nn.Module) -> torch.Tensor:
    return nn.functional.cross_entropy(model(TOKENS).logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


def trained(model: nn.Module) -> nn.Module:
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.02)
    for _ in range(4):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return model


@MODELS
@TARGETS
def test_adapters_change_nothing_at_first(build, target_modules):
    assert torch.equal(adapted(build, target_modules)(TOKENS).logits, made(build)(TOKENS).logits)


@MODELS
def test_dora_changes_nothing_but_rounding_at_first(build):
    logits = adapted(build, "with_head", dora=True)(TOKENS).logits
    torch.testing.assert_close(logits, made(build)(TOKENS).logits, rtol=1e-5, atol=1e-5)


@MODELS
@TARGETS
def test_only_adapters_train_and_every_one_gets_a_gradient(build, target_modules):
    model = adapted(build, target_modules)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}


@MODELS
def test_at_first_every_b_has_a_gradient_and_no_a_and_after_one_step_every_a_has_one(build):
    model = adapted(build, "with_head")
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    has_gradient = []
    for _ in range(2):
        optimizer.zero_grad()
        loss(model).backward()
        has_gradient.append({name: bool(p.grad.any()) for name, p in model.named_parameters() if p.requires_grad})
        optimizer.step()
    assert has_gradient[0] == {name: "lora_B" in name for name in has_gradient[0]}
    assert all(has_gradient[1].values())


@pytest.mark.parametrize("build", [lambda: our_gpt(checkpointing=True), gpt2])
def test_gradient_checkpointing_hands_every_adapter_the_same_gradient(build):
    def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
        model.train()
        torch.manual_seed(3)
        loss(model).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    model, plain = adapted(build, "with_head"), adapted(build, "with_head")
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
def test_merged_weights_in_a_plain_model_equal_the_adapted_model(build, target_modules, options):
    model = trained(adapted(build, target_modules, **options))
    plain = made(build)
    names = list(plain.state_dict())
    if target_modules == "with_head":
        untie_head(plain)
    merged = merged_state(model)
    assert list(merged) == names
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(TOKENS).logits, model(TOKENS).logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain(TOKENS).logits, made(build)(TOKENS).logits, atol=1e-3)


@MODELS
@TARGETS
def test_a_model_whose_adapters_are_taken_out_unmerged_is_what_it_was_before(build, target_modules):
    model = remove_adapters(trained(adapted(build, target_modules)), merged=False)
    assert torch.equal(model(TOKENS).logits, made(build)(TOKENS).logits)
    assert not [name for name in model.state_dict() if "lora" in name]


@MODELS
def test_an_adapted_head_shares_its_weight_no_longer_and_any_other_still_does(build):
    for target_modules, is_shared in (("with_head", False), ("all_linear", True)):
        model = adapted(build, target_modules)
        embedding = next(module for module in model.modules() if isinstance(module, nn.Embedding))
        assert (model.get_output_embeddings().weight is embedding.weight) == is_shared
        if hasattr(model, "config"):
            assert model.config.tie_word_embeddings == is_shared


@MODELS
def test_an_adapted_head_leaves_the_embedding_it_shared_as_it_was(build):
    merged = merged_state(trained(adapted(build, "with_head")))
    embedding = next(name for name in merged if "wte" in name or "token" in name)
    head = next(name for name in merged if name.endswith("head.weight"))
    assert torch.equal(merged[embedding], made(build).state_dict()[embedding])
    assert not torch.equal(merged[head], merged[embedding])


def test_the_merged_state_of_an_unadapted_model_is_its_own():
    model = made(our_gpt)
    merged = merged_state(model)
    assert list(merged) == list(model.state_dict())
    assert merged["head.weight"].data_ptr() == merged["token_embedding.weight"].data_ptr()


@pytest.mark.parametrize(("rank", "trainable"), [(8, 1_587_848), (16, 3_175_696)])
def test_with_head_on_gpt2_trains_as_many_parameters_as_document_1(rank, trainable):
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
        assert sum(p.numel() for p in model.parameters()) == 124_439_808
        add_adapters(model, rank=rank, alpha=16, dropout=0.0, target_modules="with_head")
    assert sum(hasattr(module, "base_layer") for module in model.modules()) == 49
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


@pytest.mark.parametrize(
    ("build", "target_modules", "endings"),
    [
        (our_gpt, "attention", {"qkv", "out"}),
        (our_gpt, "all_linear", {"qkv", "out", "up", "down"}),
        (our_gpt, "with_head", {"qkv", "out", "up", "down", "head"}),
        (our_gpt, ["mlp.up", "qkv"], {"qkv", "up"}),
        (our_gpt, "head", {"head"}),
        (gpt2, "attention", {"c_attn", "c_proj"}),
        (gpt2, "all_linear", {"c_attn", "c_proj", "c_fc"}),
        (llama, "attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (llama, ["up_proj", "lm_head"], {"up_proj", "lm_head"}),
    ],
)
def test_targets_are_the_layers_meant(build, target_modules, endings):
    found = find_target_layers(made(build), target_modules)
    assert {name.rpartition(".")[2] for name in found} == endings
    if target_modules == "attention":
        assert all("attn" in name or "attention" in name for name in found)


def test_the_head_and_all_linear_layers_are_those_that_document_1_names():
    named = ["c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "lm_head"]
    assert find_target_layers(made(gpt2), named) == find_target_layers(made(gpt2), "with_head")


@pytest.mark.parametrize("target_modules", ["nothing", ["qkv", "nothing"], "kv"])
def test_a_target_that_matches_nothing_is_refused_with_the_endings_that_exist(target_modules):
    with pytest.raises(ValueError, match=r"target_modules=\w+ matches no.*endings down, head, out, qkv, up"):
        adapted(our_gpt, target_modules)


@pytest.mark.parametrize("empty", [[], None])
def test_no_target_at_all_is_refused(empty):
    with pytest.raises(ValueError, match=r"target_modules=\[\]"):
        adapted(our_gpt, empty)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank=0 must be a whole number of at least 1; for no adapters choose lora=none"),
        ({"rank": 2.5}, "rank=2.5"),
        ({"alpha": 0}, "alpha=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_a_bad_number_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        adapted(our_gpt, **changes)


def test_the_same_seed_draws_the_same_adapters():
    first, second = (trained(adapted(our_gpt)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_scale_is_alpha_over_rank_or_over_its_root():
    def scale(**options):
        return adapted(our_gpt, rank=4, alpha=12, **options).blocks[0].mlp.up.scaling["default"]

    assert scale() == 3
    assert scale(rslora=True) == 6


def test_adapters_of_the_head_are_matrices_to_the_optimizer():
    groups = group_parameters(adapted(gpt2, "with_head", dora=True))
    assert {group["name"] for group in groups} == {"matrices", "vectors"}
    vectors = next(group for group in groups if group["name"] == "vectors")
    assert all("lora_magnitude" in name for name, _ in vectors["params"])
