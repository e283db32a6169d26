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
