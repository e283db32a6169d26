"""What an experiment locks stays as it is, unless it is unlocked on purpose."""

import json
import os
import sys
from pathlib import Path

import pytest

from harness.commands import run
from harness.config.compose import compose_config
from harness.config.locks import check_locked
from harness.core.errors import ConfigError

FIXED = """# @package _global_
defaults:
  - override /lora: none
  - override /start: scratch
name: fixed
locked: [seed, loop.epochs, data, batch.batch_size]
loop: {max_steps: 1, evals: 1}
model: {layers: 1, width: 16}
data: {val_fraction: 0.01}
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A user's own configuration folder, with the experiment `fixed`."""
    folder = tmp_path / "conf"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "fixed.yaml").write_text(FIXED)
    return folder


def check_overrides(conf: Path, *overrides: str, swept: tuple[str, ...] = ()) -> None:
    typed = ["experiment=fixed", *overrides]
    check_locked(compose_config([f"hydra.searchpath=[file://{conf}]", *typed]), [*typed, *swept])


@pytest.mark.parametrize(
    ("override", "lock"),
    [
        ("seed=7", "seed"),
        ("++seed=7", "seed"),
        ("~seed", "seed"),
        ("loop.epochs=3", "loop.epochs"),
        ("loop=default", "loop.epochs"),
        ("data=pydoc_text", "data"),
        ("data.val_fraction=0.2", "data"),
        ("+data.more=1", "data"),
        ("+loop@data.source=default", "data"),
        ("+data@_global_=pydoc_text", "data"),
    ],
)
def test_a_locked_key_all_in_it_and_the_group_around_it_are_refused_by_name(conf: Path, override, lock) -> None:
    with pytest.raises(ConfigError) as refused:
        check_overrides(conf, override)
    said = f"{override}: experiment fixed fixes {lock} (locked: seed, loop.epochs, data, batch.batch_size); to change"
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("swept", ["seed=range(1,4)", "data=pydoc_qa,pydoc_text", "loop.epochs=interval(1,3)"])
def test_a_range_over_a_locked_key_is_refused_like_a_value(conf: Path, swept: str) -> None:
    with pytest.raises(ConfigError, match="experiment fixed fixes"):
        check_overrides(conf, swept=(swept,))


def test_the_remedy_in_the_message_works(conf: Path) -> None:
    changes = ["seed=7", "data.val_fraction=0.2", "loop=default", "unlock=[batch.batch_size]"]
    with pytest.raises(ConfigError) as refused:
        check_overrides(conf, *changes)
    remedy = str(refused.value).rpartition("on purpose: ")[2].strip("'")
    assert remedy == "unlock=[batch.batch_size,seed,data.val_fraction,loop.epochs]"
    check_overrides(conf, *changes[:-1], remedy)


@pytest.mark.parametrize(
    "overrides",
    [
        ["loop.max_steps=3", "optimizer=sgd", "batch.micro_batch_size=8"],
        ["data=pydoc_text", "data.val_fraction=0.2", "unlock=[data]"],
        ["data.val_fraction=0.2", "unlock=[data.val_fraction]"],
        ["loop=default", "unlock=[loop]"],
        ["~data.shuffle", "unlock=[data.shuffle]"],
    ],
)
def test_what_is_not_locked_or_is_unlocked_passes(conf: Path, overrides: list[str]) -> None:
    check_overrides(conf, *overrides)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data=pydoc_text", "unlock=[data.val_fraction]"], "data=pydoc_text: experiment fixed fixes data"),
        (["locked=[]"], "locked=[]: only an experiment says what is locked"),
        (["locked=[]", "unlock=[locked]"], "locked=[]: only an experiment says what is locked"),
        (["unlock=[sed]"], "unlock: there is no key 'sed'; did you mean 'seed'?"),
        (["unlock=seed"], "unlock: 'seed' is no list of keys; write 'unlock=[seed]'"),
    ],
)
def test_unlocking_is_exact(conf: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_overrides(conf, *overrides)
    assert str(refused.value).startswith(said)


def test_an_experiment_that_locks_what_is_not_there_is_told(conf: Path) -> None:
    (conf / "experiment" / "fixed.yaml").write_text(FIXED.replace("loop.epochs", "loop.epoch"))
    with pytest.raises(ConfigError, match=r"locked: there is no key 'loop\.epoch'; did you mean 'loop\.epochs'\?"):
        check_overrides(conf)


def test_the_command_line_refuses_and_the_record_lists_what_was_locked(conf, places, tmp_path, monkeypatch, capsys):
    typed = ["--config-dir", str(conf), "experiment=fixed", "device=cpu", "observers=metrics_only", *places, "seed=7"]
    monkeypatch.setattr(sys, "argv", ["run.py", *typed])
    with pytest.raises(SystemExit, match="2"):
        run.main(typed)
    assert capsys.readouterr().err.startswith("seed=7: experiment fixed fixes seed")
    assert os.listdir(tmp_path) == ["conf"]
    monkeypatch.setattr(sys, "argv", ["run.py", *typed, "unlock=[seed]"])
    assert run.main([*typed, "unlock=[seed]"]) == 0
    [record] = tmp_path.glob("outputs/*/metrics.jsonl")
    params = json.loads(record.read_text().partition("\n")[0])["params"]
    assert params["locked"] == "['seed', 'loop.epochs', 'data', 'batch.batch_size']"
    assert params["unlock"] == "['seed']"
    assert params["seed"] == "7"
