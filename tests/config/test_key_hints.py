"""Settings under the names of other tools lead to the override that works."""

import pytest

from harness.config.compose import compose_config, flatten_config, to_plain_dict
from harness.config.key_hints import OVERRIDE_OF, suggest_overrides
from tests.conftest import run_main


@pytest.fixture(scope="module")
def known() -> list[str]:
    return list(flatten_config(to_plain_dict(compose_config([]))))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("train_file=a.txt", ["data=text data.source.path=a.txt"]),
        ("lr=1e-3", ["optimizer.lr=1e-3"]),
        ("rank=4", ["lora.rank=4"]),
        ("optimizer.learning_rate=1", ["optimizer.lr=1"]),
        ("training.batch_size=16", ["batch.batch_size=16"]),
        ("max_grad_norm=1", ["loop.grad_clip=1"]),
        ("num_train_epochs=3", ["loop.epochs=3"]),
        ("warmup=0.1", ["schedule.warmup_ratio=0.1", "schedule.warmup_steps=0.1"]),
        ("dropout=0.1", ["lora.dropout=0.1", "model.dropout=0.1"]),
        ("lora_r=8", ["lora.rank=8"]),
        ("block_size=64", ["data.sequence_length=64"]),
        ("fp16=true", ["precision=fp16"]),
        ("optim=lion", ["optimizer=lion"]),
        ("optim=adamw_torch", ["optimizer=…"]),
        ("model_name_or_path=gpt2", ["model=hf model.name=gpt2"]),
        ("optimizr.lr=1", ["optimizer.lr=1"]),
        ("loop.max_step=5", ["loop.max_steps=5"]),
        ("n_trials=3", ["sweep.n_trials=3"]),
        ("nonsense=3", []),
    ],
)
def test_suggestion(typed: str, expected: list[str], known: list[str]) -> None:
    key, _, value = typed.partition("=")
    assert suggest_overrides(key, value, known) == expected


def test_every_synonym_leads_to_a_key_or_group_that_exists(known: list[str]) -> None:
    groups = {"optimizer", "schedule", "data", "model", "precision", "device", "start", "sweeps"}
    for synonym, override in OVERRIDE_OF.items():
        key = override.split("=")[0]
        assert key in known or key in groups or key == "hydra/sweeper/sampler", synonym
        assert synonym not in known, synonym


CASES = [
    # arguments, and parts of the message
    (["experiment=smoke", "lora.rank=4"], ["the chosen lora has no such key, it needs lora=all_linear|"]),
    (["optimizer.momentum=0.9"], ["it needs optimizer=muon|sgd"]),
    (["+optimizer=adamw"], ["drop the +: optimizer=adamw"]),
    (["+optimizer.lr=1"], ["drop the +: optimizer.lr=1"]),
    (["~lora"], ["use lora=none"]),
    (["+lr=1e-3"], ["nothing reads the key 'lr'; did you mean optimizer.lr=1e-3?"]),
    (["--optimizer.lr=1e-3"], ["settings have no dashes: optimizer.lr=1e-3"]),
    (["optimizer=AdamW"], ["did you mean 'adamw'?"]),
    (["lora=8"], ["lora=8: a group needs an option: all_linear, attention"]),
    (["data=notes.txt"], ["data=text data.source.path=notes.txt"]),
    (["model=org/name"], ["model=hf model.name=NAME"]),
    (["model=llama"], ["model=hf model.name=llama"]),
    (["optimizer.lr=1e\u22123"], ["has the character '\u2212'"]),
    (["-m", "optimizer.lr=loguniform(1,2)"], ["Unknown function 'loguniform'; ranges are log(low,high)"]),
    (["-m", "sweep=optimizers"], ["chosen with sweeps=optimizers"]),
    (["tracking.uri=localhost:5000"], ["tracking.uri: 'localhost:5000' is not a tracking store"]),
    (["--config-name", "mine"], ["--config-name: mine: the main configuration cannot be replaced"]),
    (["--config-dir", "nothere"], ["--config-dir: ", "there is no such folder"]),
]


@pytest.mark.parametrize(("arguments", "expected"), CASES, ids=lambda value: " ".join(value))
def test_mistake_is_answered_in_one_line(arguments, expected, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in expected:
        assert part in error


def test_config_of_a_sweep_is_shown_without_its_ranges(monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, "-m", "-c", "job", "optimizer.lr=log(1e-4,1e-2)", "lora.rank=3") == 0
    shown = capsys.readouterr()
    assert "rank: 3" in shown.out
    assert shown.err == "note: shown without the ranges optimizer.lr=log(1e-4,1e-2)\n"


def test_top_level_key_may_be_referred_to(monkeypatch, capsys) -> None:
    assert compose_config(["+my.lr=0.5", "optimizer.lr=${my.lr}"]).optimizer.lr == 0.5
