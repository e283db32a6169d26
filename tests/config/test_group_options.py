"""Options of groups and their keys are found in conf/ and in the user's folders, past files that cannot be read."""

from pathlib import Path

import pytest

from harness.config.compose import compose_config, flatten_config, to_plain_dict
from harness.config.errors import describe_unknown_key
from harness.config.group_options import find_options_with_key, list_groups, list_options, read_options
from harness.core.errors import ConfigError
from harness.sweep.programs.training.config_space import read_config_space
from harness.sweep.programs.training.file_ranges import fit_file_ranges
from tests.conftest import run_main

FILES = {
    "optimizer/warm_sgd.yaml": "defaults: [sgd]\nlr: 0.5\nheat: 3\n",
    "optimizer/broken.yaml": "lr: [1\n",
    "optimizer/binary.yaml": "\0\1",
    "optimizer/circle.yaml": "defaults: [circle]\n",
    "optimizer/lost.yaml": "defaults: [nowhere]\n",
    "optimizer/list.yaml": "- 1\n",
    "model/no_size.yaml": "_target_: own_model.build\n_partial_: true\n",
    "model/untrusted.yaml": "_target_: other_model.build\n_partial_: true\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder for --config-dir, most of whose files are broken."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def search_path(folder: Path) -> str:
    return f"hydra.searchpath=['file://{folder}']"


def test_options_are_those_that_compose() -> None:
    for option, content in read_options("start").items():
        cfg = compose_config([f"start={option}"])
        assert content.keys() == cfg.start.keys()
    assert set(list_groups()) == {path.name for path in Path("conf").iterdir() if path.is_dir()}
    assert read_options("model")["gpt2"]["_target_"] == read_options("model")["hf"]["_target_"]
    assert {"all_linear", "none"} <= set(list_options("lora"))


def test_own_options_are_read_and_broken_ones_left_out(folder: Path, search_path: str) -> None:
    own = read_options("optimizer", [search_path])
    assert own.keys() - read_options("optimizer") == {"warm_sgd"}
    composed = to_plain_dict(compose_config([search_path, "optimizer=warm_sgd"]).optimizer)
    assert flatten_config(own["warm_sgd"]) == flatten_config(composed)
    assert "broken" in list_options("optimizer", ["--config-dir", str(folder)])
    assert find_options_with_key("optimizer", "optimizer.heat", [f"--config-dir={folder}"]) == ["warm_sgd"]
    assert find_options_with_key("optimizer", "optimizer.momentum", ["-cd", str(folder)]) == ["muon", "sgd", "warm_sgd"]
    assert find_options_with_key("optimizer", "optimizer.momentum", ["--config-dir"]) == ["muon", "sgd"]
    assert find_options_with_key("optimizer", "optimizer.momentum", ["hydra.searchpath=[pkg://os]"]) == ["muon", "sgd"]


def test_unknown_key_names_the_own_option_that_has_it(folder: Path, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, "--config-dir", str(folder), "optimizer.heat=3") == 2
    assert capsys.readouterr().err.endswith("the chosen optimizer has no such key, it needs optimizer=warm_sgd\n")
    hint = describe_unknown_key("optimizer.heatt", ["--config-dir", str(folder), "optimizer=warm_sgd"], "2")
    assert hint == "; did you mean optimizer.heat=2?"


def test_group_value_lists_own_options(folder: Path, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, "--config-dir", str(folder), "optimizer=3") == 2
    assert "warm_sgd" in capsys.readouterr().err


def test_mistake_in_a_search_space_is_not_hidden_by_a_broken_option(search_path: str) -> None:
    ranges, options = {"optimizer.lrr": "1,2"}, {"optimizer": "adamw", "lora": "none"}
    fitted = fit_file_ranges(ranges, {}, [search_path], options)
    assert fitted.params == ranges
    space = read_config_space(fitted.params, [search_path], {}, options)
    with pytest.raises(ConfigError, match=r"^optimizer.lrr: no such key; did you mean optimizer.lr\?$"):
        space.compose_config({"optimizer.lrr": 1})


def test_own_component_is_told_what_it_lacks(folder: Path, monkeypatch, capsys) -> None:
    (folder / "own_model.py").write_text("def build(*, width=3): ...\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("HARNESS_TRUST", "own_model.build")
    assert run_main(monkeypatch, "--config-dir", str(folder), "model=no_size") == 2
    assert "does not go with model=no_size, which takes no vocab_size; use model=gpt_" in capsys.readouterr().err
