"""Commands, overrides and short labels."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness.sweep.report.formatting import format_override, format_run_command, shorten_keys


@pytest.mark.parametrize(
    "value", ["adamw", 8, 1e-5, 0.1, True, None, "a b", "x,y", "it's", "tag(x)", "[q,k]", "it's, a \\ b", "${seed}", ""]
)
def test_command_round_trips_through_shell_and_hydra(value) -> None:
    words = shlex.split(format_run_command([], {"some.key": value}))[2:]
    assert words == [format_override("some.key", value)]
    parsed = OverridesParser.create().parse_override(words[0])
    assert not parsed.is_sweep_override()
    read = parsed.value()
    text = read.text if hasattr(read, "text") else read
    assert text == (["q", "k"] if value == "[q,k]" else value)


def test_command_lists_group_choices_first() -> None:
    params = {"optimizer.lr": 0.1, "optimizer": "muon"}
    assert format_run_command(["loop.max_steps=5", "experiment=x"], params).split()[2:] == [
        "experiment=x", "optimizer=muon", "loop.max_steps=5", "optimizer.lr=0.1",
    ]  # fmt: skip


def test_shortened_keys_are_unique() -> None:
    keys = ["optimizer.lr", "start.optimizer.lr", "lora.rank", "optimizer"]
    assert shorten_keys(keys) == {
        "optimizer.lr": "optimizer.lr", "start.optimizer.lr": "start.optimizer.lr",
        "lora.rank": "rank", "optimizer": "optimizer",
    }  # fmt: skip
