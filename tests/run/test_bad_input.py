"""Invalid input gets one message with the key, the value and the remedy, and exit status 2; nothing is written."""

import os
from pathlib import Path

import pytest
import torch

from tests.conftest import drop_announcements, run_main, run_script

SMOKE = "experiment=smoke"

CASES = [
    # arguments, and parts of the message
    (["optimizer=adamww"], ["optimizer=adamww", "did you mean 'adamw'?"]),
    (["optimizr=adamw"], ["optimizr=adamw", "did you mean optimizer=adamw?"]),
    (["optimizer.lrr=1"], ["optimizer.lrr=1", "did you mean optimizer.lr=1?"]),
    (["loop.max_step=5"], ["loop.max_step=5", "loop.max_steps"]),
    (["experiment=smok"], ["experiment=smok", "did you mean 'smoke'?"]),
    (["seed"], ["'seed'", "key=value"]),
    (["optimizer=adamw,sgd"], ["optimizer=adamw,sgd", "add -m"]),
    (["+optimizer.betaas=[0.9,0.99]"], ["optimizer.betaas", "did you mean 'betas'?"]),
    (["optimizer._target_=torch.optim.AdamWW"], ["optimizer._target_", "did you mean 'torch.optim.AdamW'?"]),
    (["optimizer._target_=os.system"], ["os.system is not trusted", "HARNESS_TRUST=os.system"]),
    (["+loop.steps=5"], ["loop.steps: does not exist"]),
    (["optimizer.lr=0"], ["optimizer.lr: 0 must be a finite number above 0"]),
    (["optimizer.lr=-1e-3"], ["optimizer.lr: -0.001 must be a finite number above 0"]),
    (["optimizer.lr=fast"], ["optimizer.lr: 'fast' is not a number"]),
    (["optimizer=lamb", "optimizer.lr=nan"], ["optimizer.lr: nan must be a finite number above 0"]),
    (["optimizer.weight_decay=abc"], ["optimizer.weight_decay: 'abc' is not a number"]),
    (["optimizer.betas=0.9"], ["optimizer.betas: 0.9 is not a list"]),
    (["model.width=wide"], ["model.width: 'wide' is not a whole number"]),
    (["model.layers=null"], ["model.layers: None is not a whole number"]),
    (["optimizer.betas=[a,b]"], ["optimizer.betas: ['a', 'b'] is not a list of numbers"]),
    (["optimizer.weight_decay=null"], ["optimizer.weight_decay: None is not a number"]),
    (["data.source=text"], ["data.source: 'text' is not a component"]),
    (["data.source={a:1}"], ["data.source"]),
    (["tokenizer.corpus=3"], ["tokenizer.corpus: 3 is not a component"]),
    (["data.layout=tight"], ["data.layout: 'tight' is not one of"]),
    (["model.layers=2.5"], ["model.layers: 2.5 is not a whole number"]),
    (["tokenizer.vocab_size=abc"], ["tokenizer.vocab_size: 'abc'"]),
    (["data.val_fraction=abc"], ["data.val_fraction: 'abc' is not a number"]),
    (["lora=all_linear", "lora.alpha=abc"], ["lora.alpha: 'abc' is not a number"]),
    (["output_dir=null"], ["output_dir: None must be a path"]),
    (["name=a/b"], ["name: 'a/b'"]),
    (["seed=99999999999999999999"], ["seed: 99999999999999999999"]),
    (["loop=null"], ["loop=null", "needs an option"]),
    (["lora=[1,2]"], ["lora=[1,2]", "needs an option"]),
    (["batch=${oc.env:NOTHING}"], ["batch=${oc.env:NOTHING}", "needs an option"]),
    (["unlock=${nothing}"], ["unlock: Interpolation key 'nothing' not found", "unlock=[]"]),
    (["loop=3"], ["loop=3", "needs an option"]),
    (["~seed"], ["seed: has no value", "leave out '~seed'"]),
    (["~locked"], ["locked: has no value", "locked=[]"]),
    (["tracking=null"], ["observers.mlflow.uri", "`tracking` is not a container"]),
    (["tracking=text", "~observers.mlflow"], ["tracking: 'text' is not a section"]),
    (["~tracking.uri"], ["observers.mlflow.uri: has no value", "tracking.uri, which does not exist"]),
    (["tracking.experiment=[1]"], ["tracking.experiment"]),
    (["expect=${nothing}"], ["expect: has no value", "nothing, which does not exist"]),
    (["optimizer._partial_=text"], ["optimizer._partial_: 'text' must be true"]),
    (["+schedule._partial_=true"], ["schedule._partial_: True must be false"]),
    (["observers.console=0.5"], ["observers.console: no _target_, 0.5"]),
    (["observers.diagnosis.thresholds=[1]"], ["thresholds: [1]"]),
    (["observers.diagnosis.thresholds={a:1}"], ["a: unknown threshold"]),
    (["~model.dropout"], ["model: GPT: missing a required argument: 'dropout'"]),
    (["task=operator"], ["task=operator: does not go with model=gpt_tiny", "use model=fno data=darcy"]),
    (["output_dir=" + "x" * 300], ["output_dir: ", "File name too long"]),
    (
        ["optimizer._target_=harness.training.optimizers._part_state"],
        ["harness.training.optimizers._part_state is not trusted"],
    ),
    (["optimizer._target_=harness.data.cache.Path"], ["harness.data.cache.Path is not trusted"]),
    (
        ["optimizer._target_=harness.training.checkpoint.save_weights"],
        ["harness.training.checkpoint.save_weights is not trusted"],
    ),
    (["+optimizer._args_=[1]"], ["optimizer._args_"]),
    (["batch.micro_batch_size=64"], ["batch.micro_batch_size: 64 does not divide batch_size 32"]),
    (["optimizer.betas=[1.5,0.9]"], ["optimizer", "1.5"]),
    (["schedule.warmup_ratio=1.5"], ["schedule", "warmup_ratio=1.5"]),
    (["schedule.warmup_steps=10", "schedule.warmup_ratio=0.1"], ["warmup_steps=10", "leave out one of them"]),
    (["schedule.warmup_ratio=null", "schedule.warmup_steps=900"], ["warmup_steps=900", "20 steps"]),
    (["loop.epochs=1", "loop.max_steps=20"], ["loop.max_steps", "(max_steps=20 and epochs=1.0)", "leave out one"]),
    (["loop.max_steps=null"], ["exactly one of max_steps, epochs, max_tokens", "none is set"]),
    (["loop.eval_every=5", "loop.evals=2"], ["exactly one of evals, eval_every"]),
    (["loop.max_steps=many"], ["loop.max_steps", "many"]),
    (["loop.grad_clip=-1"], ["loop.grad_clip: -1.0 must be above 0"]),
    (["batch.micro_batch_size=5"], ["batch.micro_batch_size: 5 does not divide batch_size 32", "1, 2, 4, 8, 16, 32"]),
    (["batch.batch_size=0"], ["batch.batch_size: 0 must be at least 1"]),
    (["seed=-1"], ["seed: -1"]),
    (["lora=all_linear", "lora.rank=0"], ["lora", "rank", "0"]),
    (["lora=all_linear", "lora.target_modules=[nothing]"], ["lora", "nothing", "qkv"]),
    (["data.sequence_length=4096"], ["data.sequence_length=4096", "128 positions", "data.sequence_length=128"]),
    (["data.sequence_length=0"], ["data", "sequence_length", "0"]),
    (["tokenizer=bpe", "tokenizer.vocab_size=5000000"], ["tokenizer", "5000000"]),
    (["start=warm"], ["start.source: has no value"]),
    (["start=warm", "start.source=" + "x" * 300], ["start.source: 'xxx", "is not a file"]),
    (["start=warm", "start.source=nowhere"], ["start.source: 'nowhere' is not a file"]),
    (["data=text"], ["data.source.path: has no value"]),
    (["data=text", "data.source.path=/nowhere/text.txt"], ["data", "/nowhere/text.txt"]),
    (["lora=none", "+lora.rank=4"], ["lora: it has rank, and lora=none has no adapters"]),
    (["weight_decay_applies_to=some"], ["weight_decay_applies_to: 'some'"]),
    (["tracking.uri=sqlite:////proc/store/mlflow.db"], ["tracking.uri: /proc", "cannot be written to"]),
    (["output_dir=/proc/outputs"], ["output_dir: /proc", "cannot be written to"]),
]


@pytest.mark.parametrize(
    ("typed", "parts"), CASES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_invalid_input_gets_one_message(typed, parts, places, tmp_path, monkeypatch, capsys) -> None:
    before = "experiment=smoke" if not any(word.startswith("experiment=") for word in typed) else "seed=1"
    assert run_main(monkeypatch, before, *places, *typed) == 2
    message = drop_announcements(capsys.readouterr().err).strip()
    assert "\n" not in message
    assert "Traceback" not in message
    for part in parts:
        assert part in message
    assert sorted(os.listdir(tmp_path)) == []


@pytest.mark.parametrize(
    "typed",
    ["schedule.warmup_ratio=1.5", "batch.micro_batch_size=5", "lora.rank=0", "optimizer.eps=-1", "lora.rank=1.5"],
)
def test_invalid_input_is_found_before_a_base_model_is_trained(typed, places, tmp_path, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, *places, "device=cpu", typed) == 2
    assert drop_announcements(capsys.readouterr().err).count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == []


BAD_FILES = {
    "empty": (b"", ["empty"]),
    "latin1": ("na\u00efve caf\u00e9 ".encode("latin-1") * 50, ["UTF-8"]),
    "short": (b"a few words", ["5 tokens of the train split"]),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_invalid_data_files(kind, places, tmp_path, monkeypatch, capsys) -> None:
    content, parts = BAD_FILES[kind]
    file = tmp_path / f"{kind}.txt"
    file.write_bytes(content)
    overrides = ["data=text", f"data.source.path={file}", "tokenizer=bpe", "tokenizer.vocab_size=260"]
    assert run_main(monkeypatch, SMOKE, *places, *overrides) == 2
    message = capsys.readouterr().err
    for part in (*parts, "data"):
        assert part in message
    assert sorted(os.listdir(tmp_path)) == [file.name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_device(places, tmp_path, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, SMOKE, *places, "device=cuda") == 2
    assert "device.kind: cuda is not available" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == []


def test_unreachable_model_name(places, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run_main(monkeypatch, SMOKE, *places, "model=hf", "model.name=nobody/no-such-model") == 2
    assert "nobody/no-such-model" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == []


def test_weights_of_another_architecture_are_named_with_both_shapes(places, tmp_path, monkeypatch, capsys) -> None:
    torch.save({"blocks.0.attention.qkv.weight": torch.zeros(7, 5)}, tmp_path / "other.pt")
    assert run_main(monkeypatch, SMOKE, *places, "start=warm", f"start.source={tmp_path}/other.pt") == 2
    assert "blocks.0.attention.qkv.weight [7, 5] for [288, 96]" in capsys.readouterr().err


def test_message_and_exit_status_of_a_subprocess(places: list[str], tmp_path: Path) -> None:
    done = run_script(SMOKE, *places, "optimizer=adamww")
    assert done.returncode == 2
    assert done.stdout == ""
    assert drop_announcements(done.stderr).count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == []
