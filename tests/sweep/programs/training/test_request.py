"""A sweep reads its request from the command, and stores it so that workers in another folder understand it."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.sweep.study.setup import check_existing_study, open_study
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA, read_tiny_request


def test_paths_of_the_command_are_stored_as_absolute_ones(places, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.md").write_text("Some notes.\n" * 50)
    given = ["data=text", "data.source.path=notes.md", "tokenizer=bpe"]
    monkeypatch.setattr("sys.argv", ["run.py", "-m", *given])
    request = read_tiny_request(*TINY_WITHOUT_LORA, *places, *given, "output_dir=results")
    path = f"data.source.path={tmp_path}/notes.md"
    assert path in request.program["fixed"]
    assert path in request.space.fixed
    assert request.cfg.data.source.path == f"{tmp_path}/notes.md"
    assert path in request.command
    assert "notes.md" not in request.command.replace(path, "")


def test_hydra_sweep_dir_is_the_folder_of_the_sweep(places, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["hydra.sweep.dir=multirun/${now:%Y}/${sweep.n_jobs}", "sweep.study=team/lr"]
    request = read_tiny_request(*TINY_WITHOUT_LORA, *places, *given)
    assert request.study_name == "team/lr"
    assert request.folder == tmp_path / "multirun" / f"{datetime.now():%Y}" / "None"


def test_two_studies_do_not_share_a_folder(places, tmp_path) -> None:
    request = read_tiny_request(*TINY_WITHOUT_LORA, *places, "hydra.sweeper.study_name=team/lr")
    assert request.folder == tmp_path / "outputs" / "sweeps" / "team_lr"
    (open_study(request).folder / "0").mkdir()
    with pytest.raises(ConfigError, match=r"team_lr: holds trials 0 to 0, but its .* has no study team lr; "):
        check_existing_study(replace(request, study_name="team lr"))


def test_an_observer_that_trials_lack_may_be_deleted(places) -> None:
    request = read_tiny_request(*TINY_WITHOUT_LORA, *places, "~observers.figures", "~observers.diagnosis")
    assert list(request.cfg.observers) == ["metrics_file"]
    assert "~observers.figures" in request.space.current  # for the best trial as a single run
    assert list(request.space.compose_config({}).observers) == ["console", "metrics_file"]
