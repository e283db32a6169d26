"""Command line options between overrides."""

import pytest

from harness import cli


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        ("preflight", ["--only", "all"], "--only: all: must be one of"),
        ("verify-resume", ["--steps", "0"], "--steps: 0 must be at least 1"),
        ("lr-range", ["--steps", "5"], "--steps: 5 must be at least 20"),
        ("clean", ["--to", "/nowhere/a.txt"], "data: clean needs a text file"),
    ],
)
def test_option_between_overrides_is_parsed(command, option, message, capsys) -> None:
    assert cli.main([command, "experiment=smoke", *option, "seed=1"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plain", "with space", "a,b", "par(en)", "it's", "é"])
def test_config_dir_may_have_any_name(name, tmp_path, capsys) -> None:
    folder = tmp_path / name / "optimizer"
    folder.mkdir(parents=True)
    (folder / "careful.yaml").write_text("_target_: torch.optim.AdamW\n_partial_: true\nlr: -1.0\n")
    overrides = ["experiment=smoke", "--config-dir", str(folder.parent), "optimizer=careful"]
    assert cli.main(["preflight", *overrides, "--only", "cost"]) == 2
    assert "optimizer.lr: -1.0" in capsys.readouterr().err


def test_config_dir_must_exist(capsys) -> None:
    assert cli.main(["preflight", "--config-dir", "nowhere"]) == 2
    assert "--config-dir: nowhere: not a folder" in capsys.readouterr().err
