"""Settings of a sweep are refused in a single run, but not what the command of a trial has."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness.config.overrides import check_no_sweep_settings, format_value
from harness.core.errors import ConfigError


@pytest.mark.parametrize(
    "override", ["sweep.n_trials=3", "pruner=none", "+pruner.n=1", "preflight=skip", "hydra/sweeper=basic",
                 "hydra.launcher.n_jobs=2", "hydra/sweeper/sampler=tpe"],
)  # fmt: skip
def test_setting_of_a_sweep_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="only a sweep reads it; add -m"):
        check_no_sweep_settings(["seed=1", override])


def test_command_of_a_trial_is_accepted() -> None:
    check_no_sweep_settings(["sweeps=optimizers", "hydra.searchpath=[file://x]", "observers=trial", "optimizer=sgd"])


@pytest.mark.parametrize(
    "value", ["grün", "a b", "it's", "a\\'", "null", "~/x", "1,2", "{a}", "", 1, 1.5, True, None, ["ü"]]
)
def test_formatted_values_are_parsed_back(value: object) -> None:
    assert OverridesParser.create().parse_override(f"key={format_value(value)}").value() == value
