"""Warm starts find weights, load what fits, and report what does not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from harness.config.compose import compose_config
from harness.config.schema import RunSettings
from harness.config.validation import validate_config
from harness.core.errors import ConfigError
from harness.models.gpt import GPT
from harness.models.pretrained import load_causal_lm
from harness.run.initial_weights import WeightMatch, load_matching_weights, load_warm_start
from harness.run.runner import run
from harness.training.checkpoint import load_weights, save_weights, write_checkpoint_summary
from harness.training.lora import add_adapters, remove_adapters
from tests.run.test_run import SMOKE

GPT2 = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=32, n_positions=16, bos_token_id=0, eos_token_id=0)
ADAPTED = {"rank": 2, "alpha": 4, "dropout": 0.0}


@pytest.fixture
def settings(places: list[str]) -> RunSettings:
    return validate_config(compose_config([*places, "experiment=smoke"]))


def make_gpt(seed: int = 0, layers: int = 1, width: int = 8) -> GPT:
    torch.manual_seed(seed)
    return GPT(vocab_size=20, positions=8, layers=layers, width=width, heads=2, dropout=0.0)


def has_same_weights(model: nn.Module, other: nn.Module) -> bool:
    one, two = model.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def save_run(model: nn.Module, folder: Path, lora: str = "none", **changes) -> Path:
    """Save a model like a run would, and return the folder."""
    (folder / "checkpoints" / "best").mkdir(parents=True)
    save_weights(model.state_dict(), folder / "checkpoints" / "best" / "model.safetensors")
    write_checkpoint_summary(folder / "checkpoints" / "best", {"step": 1})
    adapter = {
        "_target_": "harness.training.lora.add_adapters",
        "_partial_": True,
        **ADAPTED,
        "target_modules": lora,
        **changes,
    }
    (folder / "config.yaml").write_text(json.dumps({"lora": {} if lora == "none" else adapter}))
    return folder


def untie_model(model: GPT) -> GPT:
    model.head.weight = nn.Parameter(model.head.weight.detach() + 1)
    return model


def perturb_adapters(model: nn.Module) -> nn.Module:
    """Change every adapter, as training would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def get_error(model: nn.Module, source: Path | str, settings: RunSettings) -> str:
    with pytest.raises(ConfigError) as error:
        load_warm_start(model, str(source), settings)
    message = str(error.value)
    assert message.startswith("start.source: ")
    assert "\n" not in message
    return message


def test_untied_head_in_the_weights(tmp_path, settings) -> None:
    source = untie_model(make_gpt(1))
    model = make_gpt(2)
    match = load_warm_start(model, str(save_run(source, tmp_path / "run")), settings)
    assert match.is_complete
    assert has_same_weights(model, source)
    assert model.head.weight is not model.token_embedding.weight


@pytest.mark.parametrize("changes", [{}, {"rslora": True}, {"dora": True}])
@pytest.mark.parametrize("lora", ["all_linear", "with_head"])
def test_adapters_with_an_untied_head_are_merged(tmp_path, settings, lora, changes) -> None:
    source = perturb_adapters(add_adapters(untie_model(make_gpt(1)), **ADAPTED, target_modules=lora, **changes))
    model = make_gpt(2)
    match = load_warm_start(model, str(save_run(source, tmp_path / "run", lora, **changes)), settings)
    assert match.is_complete
    expected = remove_adapters(source, merged=True).state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.allclose(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_warm_start_does_not_need_the_data(places, tmp_path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("the cat sat on the mat and the dog lay by the door\n" * 900)
    overrides = [*places, *SMOKE, "observers=metrics_only", "loop.max_steps=2"]
    own = ["data=text", f"data.source.path={text}", "data.source.split_on='\\n'", "data.val_fraction=0.1"]
    adapted = run(compose_config([*overrides, *own, "lora=with_head", "optimizer.lr=0.01"]))
    text.unlink()
    warm = run(compose_config([*overrides, "start=warm", f"start.source={adapted.folder.name}"]))
    assert warm.status == "completed"
    weights = load_weights(warm.folder / "checkpoints" / "best" / "model.safetensors")
    assert not torch.equal(weights["head.weight"], weights["token_embedding.weight"])


@pytest.mark.parametrize("sizes", [{"layers": 2}, {"width": 4}], ids=["deeper", "narrower"])
@pytest.mark.parametrize("lora", ["none", "all_linear"])
def test_run_of_other_sizes_is_an_error(tmp_path, settings, sizes, lora) -> None:
    source = make_gpt(1, **sizes)
    saved = source if lora == "none" else add_adapters(source, **ADAPTED, target_modules=lora)
    message = get_error(make_gpt(2), save_run(saved, tmp_path / "run", lora), settings)
    assert "unexpected: blocks.1" in message or "[4] for [8]" in message


def test_partial_file_is_loaded_but_a_shallower_run_is_an_error(tmp_path, settings) -> None:
    source = make_gpt(1)
    assert "missing: blocks.1" in get_error(make_gpt(2, layers=2), save_run(source, tmp_path / "run"), settings)
    torch.save({**source.state_dict(), "extra": torch.zeros(1)}, tmp_path / "part.pt")
    model = make_gpt(2, layers=2)
    match = load_warm_start(model, str(tmp_path / "part.pt"), settings)
    assert torch.equal(model.blocks[0].mlp.up.weight, source.blocks[0].mlp.up.weight)
    assert all(name.startswith("blocks.1.") for name in match.missing)
    assert match.unexpected == ["extra"]


def test_file_without_matching_tensors(tmp_path, settings) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    assert "no tensor fits" in get_error(make_gpt(), tmp_path / "other.pt", settings)


def test_hugging_face_folder(tmp_path, settings) -> None:
    source = GPT2LMHeadModel(GPT2)
    source.save_pretrained(tmp_path / "source")
    GPT2LMHeadModel(GPT2).save_pretrained(tmp_path / "other")
    model = load_causal_lm(name=str(tmp_path / "other"), vocab_size=32)
    assert load_warm_start(model, str(tmp_path / "source"), settings).is_complete
    assert has_same_weights(model, source)
    deeper = GPT2LMHeadModel(GPT2Config(**{**GPT2.to_diff_dict(), "n_layer": 3}))
    assert "missing: transformer.h.2" in get_error(deeper, tmp_path / "source", settings)


def test_buffers_of_old_transformers_versions_are_ignored(tmp_path, settings) -> None:
    source = GPT2LMHeadModel(GPT2)
    weights = {f"transformer.{name}": tensor for name, tensor in source.transformer.state_dict().items()}
    (tmp_path / "gpt2").mkdir()
    save_file({**weights, "transformer.h.0.attn.bias": torch.ones(1)}, tmp_path / "gpt2" / "model.safetensors")
    assert load_warm_start(GPT2LMHeadModel(GPT2), str(tmp_path / "gpt2"), settings).is_complete


def test_safetensors_file(tmp_path, settings) -> None:
    source, model = make_gpt(1), make_gpt(2)
    save_weights(source.state_dict(), tmp_path / "weights.safetensors")
    assert load_warm_start(model, str(tmp_path / "weights.safetensors"), settings).is_complete
    assert has_same_weights(model, source)


def test_mlflow_run_id_beside_a_truncated_record(tmp_path, settings) -> None:
    source, model = make_gpt(1), make_gpt(2)
    folder = save_run(source, settings.output_dir / "b")
    (folder / "mlflow.json").write_text(json.dumps({"run_id": "0123abcd"}))
    torn = save_run(make_gpt(3), settings.output_dir / "a")
    (torn / "mlflow.json").write_text('{"run_id": "01')
    assert load_warm_start(model, "0123abcd", settings).is_complete
    assert has_same_weights(model, source)
    assert "'4567' is not a file, a folder, or a run" in get_error(model, "4567", settings)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_ignored(prefix) -> None:
    source, model = make_gpt(1), make_gpt(2)
    match = load_matching_weights(model, {prefix + name: tensor for name, tensor in source.state_dict().items()})
    assert match.is_complete
    assert has_same_weights(model, source)


def test_bare_transformer_fills_its_wrapper() -> None:
    source, model = GPT2LMHeadModel(GPT2), GPT2LMHeadModel(GPT2)
    assert load_matching_weights(model, source.transformer.state_dict()).is_complete
    assert has_same_weights(model, source)


def save_broken_run(folder: Path, what: str) -> Path:
    save_run(make_gpt(1), folder, "all_linear")  # weights without adapters under a configuration with them
    weights = folder / "checkpoints" / "best" / "model.safetensors"
    if what == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "no weights":
        weights.unlink()
    elif what == "torn configuration":
        (folder / "config.yaml").write_text("lora: {rank: [2\nalpha")
    elif what == "code":
        (folder / "config.yaml").write_text('{"lora": {"_target_": "os.system", "command": "true"}}')
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut off", "model.safetensors is damaged: its SHA-256 differs"),
        ("no weights", "model.safetensors is missing; train again"),
        ("torn configuration", "config.yaml"),
        ("code", "os.system"),
        ("no adapters", "the weights do not fit this model"),
    ],
)
def test_broken_run_folder(tmp_path, settings, what, message) -> None:
    assert message in get_error(make_gpt(2), save_broken_run(tmp_path / "run", what), settings)


def test_match_table_has_at_most_20_names_per_kind() -> None:
    match = WeightMatch([f"layers.{i}.weight" for i in range(25)], ["head.weight"], [], ["bias [3] for [4]"])
    lines = match.format_table().splitlines()
    kinds = [line.split()[:2] for line in lines if not line.startswith(" ")]
    assert kinds == [["matched", "25"], ["missing", "1"], ["unexpected", "0"], ["mismatched", "1"]]
    assert max(map(len, lines)) <= 100
    assert "layers.19.weight" in match.format_table()
    assert "layers.20.weight" not in match.format_table()
    assert "… 5 more" in match.format_table()
    assert "bias [3] for [4]" in lines[-1]
    assert match.summarize() == "25 tensors matched; 1 missing: head.weight; 1 mismatched: bias [3] for [4]"
