"""Parameter groups, optimizers and their state."""

import io
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from harness.config.targets import build_component
from harness.models.gpt import GPT
from harness.training.optimizers import CombinedOptimizer, Lamb, build_muon, group_parameters

CHOICES = sorted((Path(__file__).parents[2] / "conf" / "optimizer").glob("*.yaml"))
MUON = {"weight_decay": 0.1, "momentum": 0.9, "adamw_lr": 0.01, "adamw_betas": (0.9, 0.99)}


def tiny_gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(vocab_size=16, positions=8, layers=1, width=8, heads=2, dropout=0.0)


def build_choice(path: Path, model: nn.Module) -> CombinedOptimizer:
    make = build_component(OmegaConf.to_container(OmegaConf.load(path)), ("optimizer",))
    return CombinedOptimizer(make(group_parameters(model)), model)


def take_step(model: nn.Module, optimizer: CombinedOptimizer) -> float:
    tokens = torch.arange(16).view(2, 8)
    loss = nn.functional.cross_entropy(model(tokens).logits.flatten(0, 1), tokens.flatten())
    optimizer.zero_grad()
    loss.backward()
    for part in optimizer.parts:
        part.step()
    return loss.item()


def names_by_group(groups: list) -> dict[str, list[str]]:
    return {group["name"]: [name for name, _ in group["params"]] for group in groups}


def test_groups_hold_every_trainable_parameter_once() -> None:
    model = tiny_gpt()
    model.norm.bias.requires_grad = False
    groups = names_by_group(group_parameters(model))
    assert groups["embeddings"] == ["token_embedding.weight", "position_embedding.weight"]
    layers = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    assert groups["matrices"] == [f"blocks.0.{layer}.weight" for layer in layers]
    everything = [name for members in groups.values() for name in members]
    assert sorted(everything) == sorted(name for name, p in model.named_parameters() if p.requires_grad)


def test_untied_head_is_an_embedding() -> None:
    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(2, 2, bias=False), nn.Linear(2, 4)

        def get_output_embeddings(self):
            return self.head

    assert names_by_group(group_parameters(Headed())) == {
        "embeddings": ["head.weight"],
        "matrices": ["body.weight"],
        "vectors": ["head.bias"],
    }


def test_broadcast_bias_is_a_vector_and_spectral_weight_a_matrix() -> None:
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3, 4, 2, dtype=torch.complex64))
            self.bias, self.gate = nn.Parameter(torch.randn(3, 1, 1)), nn.Parameter(torch.randn(1, 3, 1, 1))
            self.adapter = nn.Parameter(torch.randn(1, 3))

    assert names_by_group(group_parameters(Spectral())) == {
        "matrices": ["weight", "adapter"],
        "vectors": ["bias", "gate"],
    }


def test_weight_decay_applies_to() -> None:
    def decays(scope):
        optimizer = torch.optim.AdamW(group_parameters(tiny_gpt(), scope), weight_decay=0.5)
        return {group["name"]: group["weight_decay"] for group in optimizer.param_groups}

    assert decays("matrices") == {"embeddings": 0.5, "matrices": 0.5, "vectors": 0.0}
    assert decays("hidden") == {"embeddings": 0.0, "matrices": 0.5, "vectors": 0.0}
    assert decays("all") == {"embeddings": 0.5, "matrices": 0.5, "vectors": 0.5}
    with pytest.raises(ValueError, match="weight_decay_applies_to='none'"):
        group_parameters(tiny_gpt(), "none")


def test_frozen_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        group_parameters(tiny_gpt().requires_grad_(False))


def test_dropped_or_repeated_parameters_are_refused() -> None:
    model = tiny_gpt()
    groups = group_parameters(model)
    with pytest.raises(ValueError, match=r"norm\.weight"):
        CombinedOptimizer(torch.optim.SGD([g for g in groups if g["name"] != "vectors"], lr=0.1), model)
    twice = [torch.optim.SGD(group_parameters(model), lr=0.1), torch.optim.SGD(list(model.head.parameters()), lr=0.1)]
    with pytest.raises(ValueError, match=r"token_embedding\.weight"):
        CombinedOptimizer(twice, model)


def test_choices() -> None:
    assert " ".join(path.stem for path in CHOICES) == "adafactor adam adamw lamb lion muon schedule_free sgd"


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_choice_trains_every_group_and_follows_schedule(path) -> None:
    model = tiny_gpt()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_choice(path, model)
    peaks = optimizer.current_lrs()
    assert peaks.keys() == {"embeddings", "matrices", "vectors"}
    first = take_step(model, optimizer)
    optimizer.scale_lr(0.5)
    assert optimizer.current_lrs() == {name: lr / 2 for name, lr in peaks.items()}
    for _ in range(30):
        last = take_step(model, optimizer)
    assert last < first
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_restored_optimizer_is_bit_identical(path) -> None:
    model, other = tiny_gpt(), tiny_gpt()
    optimizer, restored = build_choice(path, model), build_choice(path, other)
    restored.scale_lr(0.1)
    take_step(other, restored)
    for _ in range(3):
        take_step(model, optimizer)
    optimizer.eval()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other.load_state_dict(state["model"])
    restored.load_state_dict(state["optimizer"])
    assert restored.current_lrs() == optimizer.current_lrs()
    optimizer.train()
    restored.train()
    for _ in range(3):
        assert take_step(model, optimizer) == take_step(other, restored)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_load_restores_moments_but_not_hyperparameters() -> None:
    model = tiny_gpt()
    old = CombinedOptimizer(torch.optim.AdamW(group_parameters(model), lr=0.1, betas=(0.5, 0.5), weight_decay=0.3))
    take_step(model, old)
    old.scale_lr(0.01)
    new = CombinedOptimizer(torch.optim.AdamW(group_parameters(model), lr=0.2, betas=(0.9, 0.99), weight_decay=0.0))
    new.load_state_dict(old.state_dict())
    weight = model.blocks[0].mlp.up.weight
    assert torch.equal(new.parts[0].state[weight]["exp_avg"], old.parts[0].state[weight]["exp_avg"])
    for group in new.parts[0].param_groups:
        assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (0.2, (0.9, 0.99), 0.0)


def test_state_of_another_optimizer_or_model_is_refused() -> None:
    model = tiny_gpt()
    sgd = CombinedOptimizer(torch.optim.SGD(group_parameters(model), lr=0.1))
    adamw = CombinedOptimizer(torch.optim.AdamW(group_parameters(model), lr=0.1))
    with pytest.raises(ValueError, match=r"optimizer state of SGD over .* but this run trains AdamW"):
        adamw.load_state_dict(sgd.state_dict())
    model.head.requires_grad_(False)
    with pytest.raises(ValueError, match="the same optimizer and parameters"):
        CombinedOptimizer(torch.optim.SGD(group_parameters(model), lr=0.1)).load_state_dict(sgd.state_dict())


def test_zero_lr_is_refused_by_group() -> None:
    with pytest.raises(ValueError, match=r"lr=0\.0 of the embeddings must be above 0"):
        CombinedOptimizer(torch.optim.SGD(group_parameters(tiny_gpt()), lr=0.0))
    with pytest.raises(ValueError, match=r"lr=0\.0 of the embeddings"):
        CombinedOptimizer(build_muon(group_parameters(tiny_gpt()), lr=0.1, **{**MUON, "adamw_lr": 0.0}))


def weights_and_gradients() -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    draw = torch.Generator().manual_seed(7)
    shapes = [(6, 4), (5,), (3, 8)]
    weights = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    weights[1].zero_()  # like an initial bias: the trust ratio is undefined
    weights[2] *= 40  # a norm of about 200: there must be no cap
    return weights, [[torch.randn(w.shape, generator=draw, dtype=torch.float64) for w in weights] for _ in range(6)]


def train_on(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: list) -> None:
    for gradients in steps:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def reference_lamb(weight, gradients, lr, beta1, beta2, eps, decay):
    """Algorithm 2 of You et al., 2020, for one tensor, with a trust ratio of 1 if a norm is 0."""
    x, m, v = weight.clone(), torch.zeros_like(weight), torch.zeros_like(weight)
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        r = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
        update = r + decay * x
        ratio = x.norm() / update.norm() if x.norm() > 0 and update.norm() > 0 else 1.0
        x = x - lr * ratio * update
    return x


def test_lamb_equals_paper() -> None:
    weights, steps = weights_and_gradients()
    parameters = [nn.Parameter(w.clone()) for w in weights]
    train_on(Lamb(parameters, lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1), parameters, steps)
    for index, parameter in enumerate(parameters):
        expected = reference_lamb(weights[index], [g[index] for g in steps], 0.01, 0.9, 0.98, 1e-6, 0.1)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-14)


def test_lamb_treats_complex_weight_as_two_real_ones() -> None:
    weights, steps = weights_and_gradients()
    real, steps = nn.Parameter(weights[0].view(6, 2, 2).clone()), [[g[0].view(6, 2, 2)] for g in steps]
    imaginary = nn.Parameter(torch.view_as_complex(real.detach().clone()))
    train_on(Lamb([real], weight_decay=0.1), [real], steps)
    train_on(Lamb([imaginary], weight_decay=0.1), [imaginary], [[torch.view_as_complex(g)] for [g] in steps])
    torch.testing.assert_close(torch.view_as_real(imaginary.detach()), real.detach())


def test_lamb_refuses_beta_of_one() -> None:
    with pytest.raises(ValueError, match="betas"):
        Lamb([nn.Parameter(torch.ones(1))], betas=(0.9, 1.0))


def reference_muon(weight, gradients, lr, momentum, decay):
    """Jordan et al., 2024, for one matrix: Nesterov momentum, five Newton-Schulz iterations, LR scaled by shape."""
    x, buffer = weight.clone(), torch.zeros_like(weight)
    for g in gradients:
        buffer = momentum * buffer + (1 - momentum) * g
        update = (1 - momentum) * g + momentum * buffer
        wide = update.T if x.shape[0] > x.shape[1] else update
        wide = wide / wide.norm()
        for _ in range(5):
            gram = wide @ wide.T
            wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
        update = wide.T if x.shape[0] > x.shape[1] else wide
        x = x * (1 - lr * decay) - lr * max(1, x.shape[0] / x.shape[1]) ** 0.5 * update
    return x


def test_muon_equals_reference_on_matrices_and_adamw_elsewhere() -> None:
    weights, steps = weights_and_gradients()
    model = nn.ParameterList([nn.Parameter(w.clone()) for w in weights])
    twin = nn.Parameter(weights[1].clone())
    parts = build_muon(group_parameters(model), lr=0.02, **MUON)
    for part, indices in zip(parts, ([0, 2], [1]), strict=True):
        train_on(part, [model[i] for i in indices], [[g[i] for i in indices] for g in steps])
    train_on(torch.optim.AdamW([twin], 0.01, (0.9, 0.99), weight_decay=0.0), [twin], [[g[1]] for g in steps])
    assert torch.equal(model[1], twin)
    for index in (0, 2):
        expected = reference_muon(weights[index], [g[index] for g in steps], 0.02, 0.9, 0.1)
        torch.testing.assert_close(model[index].detach(), expected, rtol=0, atol=3e-3)  # torch iterates in bfloat16


def test_muon_trains_kernels_with_adamw() -> None:
    parts = build_muon(group_parameters(nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 3))), lr=0.1, **MUON)
    optimizer = CombinedOptimizer(parts)
    assert optimizer.current_lrs() == {"matrices": 0.1, "vectors": 0.01, "kernels": 0.01}
    assert [type(part).__name__ for part in parts] == ["Muon", "AdamW"]


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (8, 8)], ids=str)  # in, out
@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
def test_muon_trains_a_conv1d_of_transformers_as_the_same_linear_layer(shape, adjust_lr_fn) -> None:
    from transformers.pytorch_utils import Conv1D

    n_in, n_out = shape
    torch.manual_seed(1)
    conv, linear = Conv1D(n_out, n_in), nn.Linear(n_in, n_out)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.T)
        linear.bias.copy_(conv.bias)
    optimizers = [
        CombinedOptimizer(build_muon(group_parameters(nn.Sequential(layer)), lr=0.1, **MUON, adjust_lr_fn=adjust_lr_fn))
        for layer in (conv, linear)
    ]
    for _ in range(3):
        inputs = torch.randn(5, n_in)
        for layer, optimizer in zip((conv, linear), optimizers, strict=True):
            optimizer.zero_grad()
            (layer(inputs) ** 2).sum().backward()
            for part in optimizer.parts:
                part.step()
    # Newton-Schulz runs in bfloat16, so that rounding of the gradients shows.
    torch.testing.assert_close(conv.weight.T, linear.weight, rtol=0.02, atol=0.005)
    state = optimizers[0].state_dict()["parts"][0]["moments"]
    assert state[0]["momentum_buffer"].shape == (n_in, n_out)


def test_muon_without_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a two-dimensional matrix"):
        build_muon(group_parameters(nn.LayerNorm(3)), lr=0.1, **MUON)


def test_muon_and_adafactor_refuse_complex_parameters() -> None:
    model = nn.ParameterDict({"spectral": nn.Parameter(torch.zeros(2, 2, dtype=torch.cfloat))})
    with pytest.raises(ValueError, match=r"Muon cannot train complex parameters \(spectral\)"):
        build_muon(group_parameters(model), lr=0.1, **MUON)
    with pytest.raises(ValueError, match=r"Adafactor cannot train complex parameters \(spectral\)"):
        CombinedOptimizer(torch.optim.Adafactor(group_parameters(model)))


def reference_schedule_free(weight, gradients, lr, beta1, beta2, eps, decay):
    """Algorithm 1 of Defazio et al., 2024, without warm-up: the training weights and the averaged ones."""
    z, x, y, v = weight.clone(), weight.clone(), weight.clone(), torch.zeros_like(weight)
    for t, g in enumerate(gradients, start=1):
        v = beta2 * v + (1 - beta2) * g**2
        z = z - lr * (g / ((v / (1 - beta2**t)).sqrt() + eps) + decay * y)
        x = (1 - 1 / t) * x + z / t
        y = (1 - beta1) * z + beta1 * x
    return y, x


def test_schedule_free_equals_paper_and_evaluates_average() -> None:
    from pytorch_optimizer import ScheduleFreeAdamW

    weights, steps = weights_and_gradients()
    parameters = [nn.Parameter(w.clone()) for w in weights]
    part = ScheduleFreeAdamW(parameters, lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    optimizer = CombinedOptimizer(part)
    train_on(part, parameters, steps)
    expected = [
        reference_schedule_free(weight, [g[i] for g in steps], 0.01, 0.9, 0.98, 1e-8, 0.1)
        for i, weight in enumerate(weights)
    ]
    for mode, which in ((optimizer.train, 0), (optimizer.eval, 1), (optimizer.eval, 1), (optimizer.train, 0)):
        mode()
        for parameter, pair in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.detach(), pair[which], rtol=1e-9, atol=1e-12)


def test_train_and_eval_do_not_change_ordinary_optimizers() -> None:
    model = tiny_gpt()
    optimizer = CombinedOptimizer(torch.optim.AdamW(group_parameters(model), lr=0.1))
    take_step(model, optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.eval()
    optimizer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
