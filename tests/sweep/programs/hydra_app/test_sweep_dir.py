"""The folder of a sweep, which is the same each time the same command is started."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.core.errors import ConfigError
from harness.sweep.programs.hydra_app.sweep_dir import find_sweep_dir
from tests.sweep.programs.hydra_app.apps import open_multirun

DATE, TIME = "${now:%Y-%m-%d}", "${now:%H-%M-%S}"
NESTED = f"paths: {{root: logs, log_dir: '${{.root}}/{DATE}'}}\ntask: train\n"


def find_dir(folder: Path, sweep_dir: str | None, *overrides: str, study: str = "STUDY", config: str = "") -> str:
    given = [f"hydra.sweep.dir='{sweep_dir}'"] if sweep_dir else []
    with open_multirun(folder, config, *given, *overrides) as (_, cfg):
        with suppress(OmegaConfBaseException):
            str(cfg.hydra.sweep.dir)  # caches the times
        return str(find_sweep_dir(cfg, study))


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (None, "multirun/STUDY"),
        (f"multirun/{DATE}/{TIME}", "multirun/STUDY"),
        (f"logs/train/multiruns/{DATE}_{TIME}", "logs/train/multiruns/STUDY"),
        (f"runs/{DATE}T{TIME}/x", "runs/STUDY/x"),
        (f"runs/exp_{DATE}/jobs/{TIME}", "runs/exp_STUDY/jobs"),
        (f"runs/{DATE}_resnet_{TIME}", "runs/STUDY_resnet"),
        ("runs/${now:%Y}/${now:%m}/${now:%d}/${now:%H%M}", "runs/STUDY"),
        ("runs/fixed", "runs/fixed"),
        ("${hydra.run.dir}", "outputs/STUDY"),
        ("${hydra:run.dir}", "outputs/STUDY"),
        ("runs/${hydra.job.name}", "runs/app"),
        ("/scratch/${now:%Y}", "/scratch/STUDY"),
        ("${paths.log_dir}/${task}/multiruns/" + TIME, "logs/STUDY/train/multiruns"),
        ("${oc.env:SWEEPS_ROOT}/" + DATE, "/data/STUDY"),
    ],
)
def test_times_become_the_studys_name_once(tmp_path, monkeypatch, written, found) -> None:
    monkeypatch.setenv("SWEEPS_ROOT", "/data")
    monkeypatch.chdir(tmp_path)
    assert find_dir(tmp_path, written, config=NESTED) == str(tmp_path / found)


def test_the_name_of_a_study_cannot_leave_the_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_dir(tmp_path, None, study="../team/lr 3") == str(tmp_path / "multirun/.._team_lr_3")


def test_times_are_resolved_as_before_afterwards(tmp_path) -> None:
    with open_multirun(tmp_path, "stamp: ${now:%Y}\n") as (_, cfg):
        before = cfg.hydra.sweep.dir
        find_sweep_dir(cfg, "STUDY")
        assert cfg.hydra.sweep.dir == before
        assert re.fullmatch(r"\d{4}", cfg.stamp)
        assert re.fullmatch(r"\d{4}", OmegaConf.create({"other": "${now:%Y}"}).other)


def test_a_resolver_of_the_user_comes_back(tmp_path) -> None:
    with open_multirun(tmp_path, "") as (_, cfg):
        OmegaConf.register_resolver("now", lambda pattern: "monday", replace=True)
        assert find_sweep_dir(cfg, "STUDY").name == "STUDY"
        assert OmegaConf.create({"day": "${now:%A}"}).day == "monday"


def test_a_key_that_has_no_value_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"^hydra\.sweep\.dir: .*model.*; set hydra\.sweep\.dir=FOLDER$"):
        find_dir(tmp_path, None, config="model: ???\nhydra: {sweep: {dir: 'runs/${model}'}}\n", study="x")
