"""Options may stand anywhere among the overrides."""

import pytest

from harness import cli


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [
        ("preflight", ["--only", "all"], "--only: all: must be one of"),
        ("verify-resume", ["--steps", "0"], "--steps: 0 must be at least 1"),
        ("lr-range", ["--steps", "5"], "--steps: 5 must be at least 20"),
        ("clean", ["--to", "/nowhere/a.txt"], "data: clean needs a text file"),
    ],
)
def test_an_option_between_overrides_is_read(command, option, said, capsys) -> None:
    assert cli.main([command, "experiment=smoke", *option, "seed=1"]) == 2
    assert said in capsys.readouterr().err
