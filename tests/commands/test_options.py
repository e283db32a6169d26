"""Command line options between overrides."""

import re
from contextlib import suppress

import pytest

from harness import cli
from harness.commands import run as run_module
from harness.commands.run import _fit_help


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


@pytest.mark.parametrize("width", ["60"])
@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_the_terminal(command, width, capsys, monkeypatch) -> None:
    """All but examples, which have lines of their own to be copied; `run` has the help of Hydra."""
    monkeypatch.setenv("COLUMNS", width)
    with suppress(SystemExit):
        cli.main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines
    is_example = re.compile(r"    (?:\w+=\S+ )?plateau ").match
    assert [line for line in lines if len(line) > int(width) and not is_example(line)] == []


def test_help_of_an_installed_package_names_its_command(capsys, monkeypatch) -> None:
    monkeypatch.setattr(run_module, "run_command", lambda: ["plateau", "run"])
    with suppress(SystemExit), _fit_help(["--help"]):
        print("Train once:      python run.py optimizer=adamw\n")
        raise SystemExit
    assert capsys.readouterr().out == "Train once:      plateau run optimizer=adamw\n"


def test_options_that_exclude_each_other_are_named(capsys) -> None:
    assert cli.main(["run", "experiment=smoke", "--run", "--multirun"]) == 2
    assert "Only one of --run, --multirun" in capsys.readouterr().err


def test_hydra_help_lists_the_options(capsys) -> None:
    """Messages about unknown options recommend it."""
    assert cli.main(["run", "--hydra-help"]) == 0
    printed = capsys.readouterr().out
    assert all(option in printed for option in ("--multirun", "--cfg", "--config-dir"))
