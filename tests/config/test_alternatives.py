"""Settings of which one is set at a time: setting one replaces the others, wherever it is set."""

import re
from pathlib import Path

import pytest

from harness.commands.run import main
from harness.config.alternatives import ALTERNATIVES
from harness.config.compose import compose_config, format_search_path
from harness.config.validation import validate_config
from harness.core.errors import ConfigError
from harness.training.schedules import Cosine


@pytest.mark.parametrize(
    ("overrides", "values"),
    [
        (["loop.epochs=3"], {"max_steps": None, "epochs": 3, "max_tokens": None}),
        (["loop.max_tokens=1e6"], {"max_steps": None, "epochs": None, "max_tokens": 1_000_000}),
        (["+loop.epochs=3"], {"max_steps": None, "epochs": 3}),
        (["loop.epochs=3", "loop.max_steps=null"], {"max_steps": None, "epochs": 3}),
        (["loop.eval_every=50"], {"max_steps": 200, "evals": None, "eval_every": 50}),
        (["experiment=operator", "loop.max_steps=7"], {"max_steps": 7, "epochs": None}),
        (["experiment=headlines", "loop.evals=3"], {"evals": 3, "eval_every": None}),
    ],
)
def test_setting_on_the_command_line_replaces_the_alternative(overrides: list[str], values: dict) -> None:
    loop = validate_config(compose_config(overrides)).loop
    assert {name: getattr(loop, name) for name in values} == values


@pytest.mark.parametrize(
    ("overrides", "ratio", "steps"),
    [
        (["schedule.warmup_steps=100"], None, 100),
        (["experiment=headlines"], None, 20),
        (["experiment=headlines", "schedule.warmup_ratio=0.1"], 0.1, None),
        (["experiment=headlines", "schedule.warmup_steps=0"], None, 0),
    ],
)
def test_either_form_of_warmup_alone(overrides: list[str], ratio: float | None, steps: int | None) -> None:
    schedule = compose_config(overrides).schedule
    assert (schedule.warmup_ratio, schedule.warmup_steps) == (ratio, steps)


def test_two_alternatives_on_the_command_line_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"loop.max_steps: .*max_steps=50 and epochs=3.*leave out one of them$"):
        validate_config(compose_config(["loop.epochs=3", "loop.max_steps=50"]))
    cfg = compose_config(["schedule.warmup_steps=3", "schedule.warmup_ratio=0.1"])
    with pytest.raises(ValueError, match="leave out one of them"):
        Cosine(warmup_ratio=cfg.schedule.warmup_ratio, warmup_steps=cfg.schedule.warmup_steps)


def test_files_replace_alternatives_of_earlier_files(tmp_path: Path) -> None:
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "long.yaml").write_text("defaults:\n  - default\n\nepochs: 30\n")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - headlines\n  - _self_\n\nloop: {epochs: 2}\n"
        "schedule: {warmup_ratio: 0.3}\n"
    )
    folder = format_search_path([f"file://{tmp_path}"])
    long, mine = compose_config([folder, "loop=long"]), compose_config([folder, "experiment=mine"])
    assert (long.loop.max_steps, long.loop.epochs, long.loop.evals) == (None, 30, 5)
    assert (mine.loop.max_steps, mine.loop.epochs, mine.loop.eval_every) == (None, 2, 44)
    assert (mine.schedule.warmup_ratio, mine.schedule.warmup_steps) == (0.3, None)


def test_component_without_the_alternative_is_not_given_one(tmp_path: Path) -> None:
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "mine.yaml").write_text("_target_: mine.Schedule\nwarmup_ratio: 0.05\n")
    folder = format_search_path([f"file://{tmp_path}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_TRUST", "mine.Schedule")
        cfg = compose_config([folder, "schedule=mine", "schedule.warmup_ratio=0.2"])
    assert dict(cfg.schedule) == {"_target_": "mine.Schedule", "warmup_ratio": 0.2}


def test_printed_config_is_the_one_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "job", "loop.epochs=3", "schedule.warmup_steps=5"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"max_steps: null\n  epochs: 3\n", printed)
    assert re.search(r"warmup_ratio: null\n  warmup_steps: 5\n", printed)


def test_table_has_the_settings_that_exist() -> None:
    cfg = compose_config(["data=text", "data.source.path=x"])
    for section, groups in ALTERNATIVES.items():
        for names in groups:
            assert {*names} <= {*map(str, cfg[section])}
            assert sum(cfg[section][name] is not None for name in names) == ("test" not in names)
