"""Settings under the names of other tools lead to the override that works."""

from collections.abc import Iterable
from typing import Any

import pytest

from harness.config.compose import compose_config, flatten_values, to_plain_dict
from harness.config.errors import describe_unknown_key
from harness.config.group_options import list_groups, list_options
from harness.config.key_hints import OVERRIDE_OF, RELATED_KEY_OF, suggest_overrides
from harness.config.option_hints import BY_NAME, NUMBER_KEYS, SYNONYMS, choose_data, find_option
from tests.conftest import run_main

VALUES = ("3", "0.1", "true", "gpt2")


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return flatten_values(to_plain_dict(compose_config([])))


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
        ("warmup=0.1", ["schedule.warmup_ratio=0.1"]),
        ("warmup=100", ["schedule.warmup_steps=100"]),
        ("dropout=0.1", ["lora.dropout=0.1", "model.dropout=0.1"]),
        ("lora_r=8", ["lora.rank=8"]),
        ("block_size=64", ["data.sequence_length=64"]),
        ("fp16=true", ["precision=fp16"]),
        ("fp16=false", ["precision=fp32"]),
        ("torch_dtype=bfloat16", ["precision=bf16"]),
        ("amp=true", ["precision=bf16|fp16|fp32"]),
        ("gpus=2", ["device=cuda"]),
        ("gradient_accumulation_steps=4", ["batch.micro_batch_size"]),
        ("min_lr=1e-5", ["schedule.final_ratio"]),
        ("adam_beta1=0.9", ["optimizer.betas"]),
        ("early_stopping=true", ["loop.patience"]),
        ("early_stopping_patience=5", ["loop.patience=5"]),
        ("val_check_interval=0.25", ["loop.eval_every"]),
        ("eval_steps=0.25", ["loop.eval_every"]),
        ("resume=true", ["start=resume start.run=last"]),
        ("resume=outputs/mine", ["start=resume start.run=outputs/mine"]),
        ("num_workers=4", []),
        ("start.ckpt=best", ["start=resume start.checkpoint=best"]),
        ("data.source.colum=title", ["data=headlines data.source.column=title"]),
        ("optimizer.foo=3", []),
        ("schedule.gamma=0.5", []),
        ("optimizr.foo=3", []),
        ("optimzer=adamw", ["optimizer=adamw"]),
        ("trackng=here", ["tracking"]),
        ("dataset=fields.pt", ["data=pde_files data.train=fields.pt"]),
        ("dataset=user/texts", ["data=huggingface data.source.path=user/texts"]),
        ("optim=lion", ["optimizer=lion"]),
        ("optim=adamw_torch", ["optimizer=adamw"]),
        ("model_name_or_path=gpt2", ["model=hf model.name=gpt2"]),
        ("optimizr.lr=1", ["optimizer.lr=1"]),
        ("loop.max_step=5", ["loop.max_steps=5"]),
        ("n_trials=3", ["sweep.n_trials=3"]),
        ("nonsense=3", []),
    ],
)
def test_suggestion(typed: str, expected: list[str], known: dict[str, Any]) -> None:
    key, _, value = typed.partition("=")
    assert suggest_overrides(key, value, known) == expected


def test_every_suggestion_composes(known: dict[str, Any]) -> None:
    names = [*{override: name for name, override in OVERRIDE_OF.items()}.values(), *RELATED_KEY_OF, "gpu", "start.ckpt"]
    found = {one for name in names for value in VALUES for one in suggest_overrides(name, value, known)}
    found |= {f"{key}=3" for key in NUMBER_KEYS.values()} | {f"{override}x" for override in BY_NAME.values()}
    found |= {choose_data(path) for path in ("a.pt", "a.json.gz", "a.csv", "a/b.txt", "user/texts")}
    for row in pack_overrides(found):
        compose_config(row)
    assert {one for one in found if "=" not in one} <= {*known, "hydra/sweeper/sampler"}


def pack_overrides(overrides: Iterable[str]) -> list[list[str]]:
    """Return the overrides, with one for each of several options, in few lists of such that do not touch each other."""
    rows: list[dict[str, list[str]]] = []  # by key; by section if an option of it is chosen
    for one in sorted(overrides):
        if "=" in one:
            key, _, value = one.partition("=")
            for option in value.split("|") if "|" in value else [value]:
                tokens = f"{key}={option}".split()
                place = key if len(tokens) == 1 and "." in key else f"{key.partition('.')[0]}."
                row = next((row for row in rows if not any(clashes(place, other) for other in row)), None)
                if row is None:
                    rows.append(row := {})
                row[place] = tokens
    return [[token for tokens in row.values() for token in tokens] for row in rows]


def clashes(place: str, other: str) -> bool:
    return place == other or any(
        first.endswith(".") and second.startswith(first) for first, second in ((place, other), (other, place))
    )


def test_synonyms_of_options_lead_to_options() -> None:
    assert SYNONYMS.keys() <= {*list_groups(), "hydra/launcher"}
    for group, synonyms in SYNONYMS.items():
        options = list_options(group)
        for option, names in synonyms.items():
            assert option in options
            assert [find_option(group, name, options) for name in names.split()] == [option] * len(names.split())


def test_wrong_key_lists_the_keys_of_its_section() -> None:
    assert describe_unknown_key("optimizer.foo", [], "3") == "; optimizer has lr, betas, eps, weight_decay, fused"
    assert describe_unknown_key("nonsense.foo", [], "3").endswith("--cfg job` shows every key")


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
    (["lora=8"], ["lora=8: a group needs an option: all_linear, attention", "such as lora.rank=8"]),
    (["data=notes.txt"], ["data=text data.source.path=notes.txt"]),
    (["data=text", "data.path=a.md"], ["did you mean data.source.path=a.md?"]),
    (["model=org/name"], ["model=hf model.name=org/name"]),
    (["model=llama"], ["model=hf model.name=llama"]),
    (["model=gpt2-medium"], ["model=hf model.name=gpt2-medium"]),
    (["tokenizer=gpt2"], ["tokenizer=pretrained tokenizer.name=gpt2"]),
    (["tokenizer=org/name"], ["tokenizer=pretrained tokenizer.name=org/name"]),
    (["device=gpu"], ["did you mean 'cuda'?"]),
    (["precision=16"], ["did you mean 'fp16'?"]),
    (["precision=2"], ["a group needs an option: bf16, fp16, fp32\n"]),
    (["lora=true"], ["did you mean 'all_linear'?"]),
    (["schedule=0.5"], ["polynomial, wsd\n"]),
    (["start=resume", "start.run="], ["start.run: has no value; add start.run="]),
    (["start=resume", "start.run=null"], ["start.run: has no value; use start=resume start.run="]),
    (["model=hf", "model.name="], ["model.name: has no value; add model.name="]),
    (["tokenizer=pretrained"], ["it refers to model.name, which does not exist; add tokenizer.name="]),
    (["sweep.n_trials=3"], ["sweep.n_trials=3: only a sweep reads it; add -m"]),
    (["preflight=skip"], ["preflight=skip: only a sweep reads it; add -m"]),
    (["hydra/launcher=joblib"], ["hydra/launcher=joblib: only a sweep reads it; add -m"]),
    (["+my=3"], ["refer to it as ${my}"]),
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
