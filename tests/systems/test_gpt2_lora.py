"""GPT-2 + LoRA end to end on random weights: training on Q&A, sampling and export."""

import json
import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from harness import cli
from harness.commands.export import describe_merging, export_model
from harness.commands.sample import format_prompt, print_samples
from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.data.tokens import IGNORE_INDEX, TokenBatch
from harness.run.load import LoadedRun, load_recorded_run
from harness.run.runner import run
from harness.tasks.causal_lm import CausalLM
from harness.tracking.run_uploader import upload_run
from harness.tracking.upload_cursor import UploadCursor
from tests.token_streams import VOCABULARY, make_generated_lm
from tests.tracking.stores import new_store, only_run

QUESTIONS = "".join(f"QUESTION: What follows {n}?\nANSWER: After {n} comes {n + 1}.\n\n" for n in range(1, 301))
SMALL = ["device=cpu", "observers=metrics_only", "loop.eval_every=6", "loop.max_steps=6", "batch.batch_size=4"]
SMALL += ["data.sequence_length=32", "data.val_fraction=0.02", "optimizer.lr=0.01", "schedule.warmup_ratio=0"]
SMALL += ["tokenizer=bpe", "tokenizer.vocab_size=300"]
OURS = ["model=gpt_tiny", "model.layers=1", "model.width=16", "start=scratch"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> dict[str, Path]:
    """Run folders: adapters on a pretrained model, adapters on our GPT, and our GPT with all weights trained."""
    folder = tmp_path_factory.mktemp("gpt2_lora")
    (folder / "qa.md").write_text(QUESTIONS)
    torch.manual_seed(0)
    sizes = {"vocab_size": 304, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)).save_pretrained(folder / "gpt2")
    chosen = ["experiment=gpt2_lora_after", f"data.source.path={folder}/qa.md", *SMALL, f"cache_dir={cache_dir}"]
    chosen += [f"output_dir={folder}/outputs", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    kinds = {"pretrained": [f"model.name={folder}/gpt2"], "ours": OURS, "full": [*OURS, "lora=none"]}
    return {kind: run(compose_config([*chosen, *changes, f"name={kind}"])).folder for kind, changes in kinds.items()}


@pytest.fixture
def recorded(folders: dict[str, Path], request: pytest.FixtureRequest) -> LoadedRun:
    return load_recorded_run(str(folders[request.param]))


def with_run(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("recorded", kinds, indirect=True)


def encode_questions(run: LoadedRun) -> torch.Tensor:
    return torch.tensor(run.tokenizer.encode([QUESTIONS])[0][:96]).view(4, 24)


def compute_mean_loss(model: nn.Module, tokens: torch.Tensor) -> float:
    """Return the mean loss over next tokens, in nats."""
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()


def train_counting_gpt2() -> GPT2LMHeadModel:
    """Return a GPT-2 that has learned to predict n + 1 after n."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, resid_pdrop=0, embd_pdrop=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(40):
        tokens = (torch.randint(VOCABULARY, (16, 1)) + torch.arange(9)) % VOCABULARY
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return model.eval()


def test_loss_matches_transformers_and_detects_double_shift():
    model = train_counting_gpt2()
    tokens = (torch.tensor([[3], [20]]) + torch.arange(9)) % VOCABULARY
    batch = TokenBatch(tokens[:, :-1], tokens[:, 1:].clone(), lengths=np.array([8, 8]), scored_per_row=np.array([5, 8]))
    batch.targets[0, :3] = IGNORE_INDEX  # like a prompt
    task = CausalLM(model, make_generated_lm().data)
    ours = task.compute_loss(batch).sum.item() / batch.n_scored
    labels = torch.cat([torch.full((2, 1), IGNORE_INDEX), batch.targets], dim=1)  # unshifted: transformers shifts them
    assert ours == pytest.approx(model(input_ids=tokens, labels=labels).loss.item(), rel=1e-5)
    twice = model(input_ids=batch.inputs, labels=batch.targets).loss.item()
    assert ours < 0.5
    assert twice > math.log(VOCABULARY)


@with_run("pretrained")
def test_run_trains_adapters_only(recorded: LoadedRun):
    lines = [json.loads(line) for line in (recorded.folder / "metrics.jsonl").read_text().splitlines()]
    params, effective = lines[0]["params"], lines[0]["effective"]
    adapters = sum(p.numel() for name, p in recorded.model.named_parameters() if "lora_" in name)
    assert effective["trainable_parameters"] == adapters
    assert effective["param_groups"]["matrices"]["weight_decay"] == 0.01
    assert (params["lora.rank"], params["lora.alpha"]) == ("16", "32")
    losses = [line["metrics"]["val/loss"] for line in lines if "val/loss" in line.get("metrics", {})]
    assert losses[-1] < losses[0]
    assert lines[-1]["status"] == "completed"


@with_run("pretrained", "ours", "full")
def test_exported_model_matches_in_transformers(recorded: LoadedRun, tmp_path: Path):
    tokens, kept = encode_questions(recorded), recorded.model.state_dict()
    expected_loss, is_adapted = compute_mean_loss(recorded.model, tokens), any("lora_" in name for name in kept)
    export_model(recorded, tmp_path / "out", adapters=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert compute_mean_loss(model, tokens) == pytest.approx(expected_loss, rel=1e-5)
    assert tokenizer(QUESTIONS)["input_ids"] == recorded.tokenizer.encode([QUESTIONS])[0]
    assert tokenizer.eos_token_id == recorded.tokenizer.eos_id
    assert model.config.tie_word_embeddings != is_adapted
    assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight) != is_adapted
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@with_run("pretrained", "ours")
def test_exported_adapters_match_in_peft(recorded: LoadedRun, tmp_path: Path):
    tokens, expected_loss = encode_questions(recorded), compute_mean_loss(recorded.model, encode_questions(recorded))
    export_model(recorded, tmp_path / "out", adapters=True)
    base = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"]
    is_public = recorded.cfg.model.get("name") == base
    assert is_public != (base == str(tmp_path / "out" / "base"))
    assert (tmp_path / "out" / "base").exists() != is_public
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    before = compute_mean_loss(plain, tokens)
    model = PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    assert compute_mean_loss(model, tokens) == pytest.approx(expected_loss, rel=1e-5)
    assert abs(before - expected_loss) > 0.01


@with_run("pretrained", "ours")
def test_merging_in_peft_is_another_model_where_the_note_says_so(recorded: LoadedRun, tmp_path: Path):
    tokens, expected_loss = encode_questions(recorded), compute_mean_loss(recorded.model, encode_questions(recorded))
    note = describe_merging(recorded)
    export_model(recorded, tmp_path / "out", adapters=True)
    base = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"]
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out")
    merged = adapted.merge_and_unload().eval()
    is_same = compute_mean_loss(merged, tokens) == pytest.approx(expected_loss, rel=1e-4)
    assert bool(note) != is_same
    assert bool(note) == (recorded.cfg.model.get("name") == base)


@with_run("full")
def test_rejected_export_writes_nothing(recorded: LoadedRun, tmp_path: Path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match=r"--output: .*there exists; name another folder"):
        export_model(recorded, tmp_path / "there", adapters=False)
    with pytest.raises(ConfigError, match=r"--adapters: .* has none: .*; leave out --adapters"):
        export_model(recorded, tmp_path / "out", adapters=True)
    strange = replace(recorded, model=nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"Linear: transformers has no equivalent class; use model.safetensors of"):
        export_model(strange, tmp_path / "out", adapters=False)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_export_command_prints_how_to_load(folders: dict[str, Path], capsys):
    assert cli.main(["export", str(folders["ours"])]) == 0
    assert f"AutoModelForCausalLM.from_pretrained('{folders['ours']}/exported')" in capsys.readouterr().out
    assert cli.main(["export", str(folders["ours"])]) == 2
    assert "exported exists" in capsys.readouterr().err


def test_export_is_uploaded_on_request(folders: dict[str, Path], tmp_path: Path, monkeypatch, capsys):
    folder, store = folders["ours"], new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    export = ["export", str(folder), "--adapters", "--mlflow", "--output", str(tmp_path / "out")]
    UploadCursor(store, "default").save(folder)
    assert cli.main(export) == 2
    assert "is not in MLflow yet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    upload_run(folder)
    assert cli.main(export) == 0
    _, run = only_run(store)
    assert f"uploaded to runs:/{run.info.run_id}/adapters" in capsys.readouterr().out
    uploaded = Path(run.info.artifact_uri.removeprefix("file://")) / "adapters"
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or (uploaded / path.relative_to(tmp_path / "out")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["pretrained", "ours"])
def test_sample_formats_question_and_is_seeded(kind, folders, capsys):
    arguments = ["sample", str(folders[kind]), "QUESTION: What follows 7?", "--tokens", "40", "--count", "2"]
    assert cli.main(arguments) == 0
    first = capsys.readouterr()
    assert first.out.startswith("QUESTION: What follows 7?\nANSWER:")
    assert len(first.out.split("---\nQUESTION: What follows 7?\nANSWER:")) == 2
    assert "prompt in the format of the training data: 'QUESTION: What follows 7?\\nANSWER:'" in first.err
    cli.main(arguments)
    assert capsys.readouterr().out == first.out
    cli.main([*arguments, "--seed", "2"])
    assert capsys.readouterr().out != first.out


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("QUESTION: Why?", "QUESTION: Why?\nANSWER:"),
        ("QUESTION:  Why? \nANSWER: ", "QUESTION: Why?\nANSWER:"),
        (r"QUESTION: Why?\nANSWER:", "QUESTION: Why?\nANSWER:"),
        ("QUESTION: Why?\nANSWER: Because", "QUESTION: Why?\nANSWER: Because"),
        (r"What is \nu? ", r"What is \nu? "),
    ],
)
def test_format_prompt(prompt: str, expected: str):
    assert format_prompt(prompt) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "0"], "--tokens: 0 must be at least 1"),
        (["--temperature", "nan"], "--temperature: nan must be at least 0"),
        (["--top-k", "-1"], "--top-k: -1 must be at least 0"),
    ],
)
def test_sample_rejects_invalid_numbers(options: list[str], message: str, capsys):
    assert cli.main(["sample", "no-such-run", "x", *options]) == 2
    assert message in capsys.readouterr().err


def test_unknown_run_is_rejected(capsys):
    for command in (["sample", "no-such-run", "x"], ["export", "no-such-run"]):
        assert cli.main(command) == 2
        assert "RUN: 'no-such-run' is not a file, a folder, or a run in" in capsys.readouterr().err


@with_run("full")
def test_sample_rejects_masked_model(recorded: LoadedRun):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    bert = BertForMaskedLM(BertConfig(vocab_size=304, initializer_range=0.5, **sizes)).eval()
    with pytest.raises(ConfigError, match="is not a causal model; only causal models generate text"):
        print_samples(replace(recorded, model=bert), Namespace())


@with_run("full")
def test_tokenizer_larger_than_embedding_is_rejected(recorded: LoadedRun, folders):
    bigger = compose_config(["experiment=gpt2_lora_after", *SMALL, f"model.name={folders['full'].parents[1]}/gpt2"])
    bigger.data.source.path, bigger.tokenizer.vocab_size = f"{folders['full'].parents[1]}/qa.md", 320
    bigger.cache_dir, bigger.output_dir = recorded.cfg.cache_dir, recorded.cfg.output_dir
    with pytest.raises(ConfigError, match="vocabulary of 320 exceeds the model's embedding of 304"):
        run(bigger)
