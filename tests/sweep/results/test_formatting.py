"""Commands, overrides and short labels."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness.sweep.programs.training.command_line import TrainingCommandLine
from harness.sweep.results.formatting import format_override, format_sweep_params


@pytest.mark.parametrize(
    "value", ["adamw", 8, 1e-5, 0.1, True, None, "a b", "x,y", "it's", "tag(x)", "[q,k]", "it's, a \\ b", "${seed}", ""]
)
def test_command_round_trips_through_shell_and_hydra(value) -> None:
    words = shlex.split(TrainingCommandLine([]).format_command({"some.key": value}))[2:]
    assert words == [format_override("some.key", value)]
    parsed = OverridesParser.create().parse_override(words[0])
    assert not parsed.is_sweep_override()
    read = parsed.value()
    text = read.text if hasattr(read, "text") else read
    assert text == (["q", "k"] if value == "[q,k]" else value)


def test_command_lists_group_choices_first() -> None:
    params = {"optimizer.lr": 0.1, "optimizer": "muon"}
    assert TrainingCommandLine(["loop.max_steps=5", "experiment=x"]).format_command(params).split()[2:] == [
        "experiment=x", "optimizer=muon", "loop.max_steps=5", "optimizer.lr=0.1",
    ]  # fmt: skip


def test_settings_of_a_sweep_are_plain_texts_by_key() -> None:
    settings = {
        "objectives": ["best_val_loss", "tokens"],
        "n_trials": 24,
        "workers": {"launcher": "basic", "threads": None},
        "sampler": {
            "_target_": "optuna.samplers.TPESampler",
            "seed": None,
            "multivariate": True,
            "n_startup_trials": 10,
        },
        "pruner": {"_target_": "optuna.pruners.NopPruner", "_partial_": True},
        "locked": [],
    }
    assert format_sweep_params(settings, {"hydra/sweeper/sampler": "tpe", "optimizer": "adamw"}) == {
        "objectives": "best_val_loss, tokens",
        "n_trials": "24",
        "workers.launcher": "basic",
        "sampler": "tpe",
        "sampler.class": "optuna.samplers.TPESampler",
        "sampler.multivariate": "true",
        "sampler.n_startup_trials": "10",
        "pruner.class": "optuna.pruners.NopPruner",
    }
