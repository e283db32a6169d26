"""Locked keys cannot be overridden unless they are unlocked."""

import json
import os
from pathlib import Path

import pytest

from harness.commands import run
from harness.config.compose import compose_config
from harness.config.locks import check_locked
from harness.config.validation import validate_config
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
    """Return a configuration folder of a user, with the experiment `fixed`."""
    folder = tmp_path / "conf"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "fixed.yaml").write_text(FIXED)
    return folder


def check_overrides(conf: Path, *overrides: str, swept: tuple[str, ...] = ()) -> None:
    typed = [f"hydra.searchpath=[file://{conf}]", "experiment=fixed", *overrides]
    check_locked(compose_config(typed), [*typed, *swept])


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
        ("+batch@_global_=default", "batch.batch_size"),
    ],
)
def test_overriding_a_locked_key_its_group_or_a_key_below_it_is_an_error(conf: Path, override, lock) -> None:
    with pytest.raises(ConfigError) as error:
        check_overrides(conf, override)
    message = f"{override}: experiment fixed locks {lock} (locked: seed, loop.epochs, data, batch.batch_size); to"
    assert str(error.value).startswith(message)


def test_replacing_a_locked_alternative_is_an_error(conf: Path) -> None:
    (conf / "experiment" / "fixed.yaml").write_text(FIXED.replace("loop.epochs", "loop.max_steps"))
    with pytest.raises(ConfigError, match=r"loop.epochs=3: experiment fixed locks loop.max_steps .*unlock="):
        check_overrides(conf, "loop.epochs=3")


@pytest.mark.parametrize("swept", ["seed=range(1,4)", "data=pydoc_qa,pydoc_text", "loop.epochs=interval(1,3)"])
def test_sweeping_a_locked_key_is_an_error(conf: Path, swept: str) -> None:
    with pytest.raises(ConfigError, match="experiment fixed locks"):
        check_overrides(conf, swept=(swept,))


def test_suggested_unlock_allows_the_overrides(conf: Path) -> None:
    changes = ["seed=7", "data.val_fraction=0.2", "loop=default", "unlock=[batch.batch_size]"]
    with pytest.raises(ConfigError) as error:
        check_overrides(conf, *changes)
    remedy = str(error.value).rpartition("to override it: ")[2].strip("'")
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
def test_unlocked_keys_can_be_overridden(conf: Path, overrides: list[str]) -> None:
    check_overrides(conf, *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=pydoc_text", "unlock=[data.val_fraction]"], "data=pydoc_text: experiment fixed locks data"),
        (["locked=[]"], "locked=[]: only an experiment can lock keys"),
        (["locked=[]", "unlock=[locked]"], "locked=[]: only an experiment can lock keys"),
        (["unlock=[sed]"], "unlock: there is no key 'sed'; did you mean 'seed'?"),
        (["unlock=seed"], "unlock: 'seed' is not a list of keys; write 'unlock=[seed]'"),
    ],
)
def test_invalid_lock_overrides(conf: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_overrides(conf, *overrides)
    assert str(error.value).startswith(message)


def test_locking_an_unknown_key_is_an_error(conf: Path) -> None:
    (conf / "experiment" / "fixed.yaml").write_text(FIXED.replace("loop.epochs", "loop.epoch"))
    with pytest.raises(ConfigError, match=r"locked: there is no key 'loop\.epoch'; did you mean 'loop\.epochs'\?"):
        check_overrides(conf)


def test_locks_on_the_command_line(conf, places, tmp_path, capsys):
    typed = ["--config-dir", str(conf), "experiment=fixed", "device=cpu", "observers=metrics_only", *places, "seed=7"]
    with pytest.raises(SystemExit, match="2"):
        run.main(typed)
    assert capsys.readouterr().err.startswith("seed=7: experiment fixed locks seed")
    assert os.listdir(tmp_path) == ["conf"]
    assert run.main([*typed, "unlock=[seed]"]) == 0
    [record] = tmp_path.glob("outputs/*/metrics.jsonl")
    start = json.loads(record.read_text().partition("\n")[0])
    assert start["overrides"][:2] == [f'hydra.searchpath=["file://{conf}"]', "experiment=fixed"]
    params = start["params"]
    assert params["locked"] == "['seed', 'loop.epochs', 'data', 'batch.batch_size']"
    assert params["unlock"] == "['seed']"
    assert params["seed"] == "7"


def test_missing_value_is_left_to_validation() -> None:
    cfg = compose_config(["model=hf", "start=scratch"])  # the tokenizer takes its name from the model, which has none
    check_locked(cfg, ["model=hf", "start=scratch"])
    with pytest.raises(ConfigError, match=r"model\.name: has no value; add model\.name="):
        validate_config(cfg)
