"""The components of docs/extending.md work: the blocks of the page are written to a folder and run."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.config.compose import compose_config, format_search_path
from harness.config.interfaces import INTERFACES
from harness.core.events import Observer
from harness.core.state import Schedule
from harness.core.task import Task
from harness.data.sources import Source
from harness.data.tokenizers import TokenizerBuilder
from harness.run.result import RunResult
from harness.run.runner import run
from harness.sweep.programs.training.request import compose_sweep_request
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
SHORT = ("loop.max_steps=2", "loop.evals=1", "device.threads=1")


def write_page_files(page: str, folder: Path) -> None:
    """Write the blocks of a page that begin with the comment `# FILE`; those of one file are joined."""
    blocks = re.findall(r"^```(?:python|yaml)\n# (my_\S+|\w+\.py)[^\n]*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for name, text in blocks:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("a") as file:
            file.write(text)


def read_trusted_names(page: str) -> str:
    return ",".join(re.findall(r"my_package\.\w+", " ".join(re.findall(r"HARNESS_TRUST=\S+", page))))


@pytest.fixture
def page_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder with the files of the page, which is the current one, with its components trusted."""
    write_page_files(PAGE, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)
    monkeypatch.setenv("HARNESS_TRUST", read_trusted_names(PAGE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_own(folder: Path, places: list[str], *overrides: str) -> RunResult:
    search_path = format_search_path([f"file://{folder}/my_conf"])
    return run(compose_config([search_path, *places, "observers=metrics_only", *SHORT, *overrides]))


def test_optimizer_schedule_data_model_and_observer_train_together(page_folder, places, capsys) -> None:
    overrides = ("optimizer=careful", "schedule=steps", "data=poems", "model=bigram", "lora=none", "start=scratch")
    result = run_own(page_folder, places, *overrides, "observers=printing", "~observers.mlflow", "~observers.figures")
    assert result.status == "completed"
    assert "validation " in capsys.readouterr().out
    config = OmegaConf.load(result.folder / "config.yaml")
    assert config.optimizer._target_ == "my_package.Careful"
    assert result.effective.schedule == "Steps"


def test_task_learns_without_model_data_and_tokenizer(page_folder, places) -> None:
    groups = ("task=sine", "~model", "~data", "~tokenizer", "lora=none", "start=scratch")
    result = run_own(page_folder, places, *groups, "loop.max_steps=60", "optimizer.lr=0.02")
    assert result.status == "completed"
    assert result.best_val_loss < 0.25  # 0.5 for a constant


def test_sweep_parts_are_accepted(page_folder) -> None:
    search_path = format_search_path([f"file://{page_folder}/my_conf"])
    parts = ("sweeps=wide", "pruner=worst_of_three", "hydra/sweeper/sampler=halton")
    request = compose_sweep_request([search_path, "experiment=smoke", *parts])
    assert request.space.format_ranges()["optimizer.lr"] == "tag(log,interval(1e-05,0.1))"
    assert type(request.spec.make_pruner()).__name__ == "WorstOfThree"


@pytest.mark.parametrize(
    ("place", "protocol"),
    [
        ("schedule", Schedule),
        ("task", Task),
        ("data.source", Source),
        ("tokenizer", TokenizerBuilder),
        ("observers.*", Observer),
    ],
)
def test_interfaces_have_the_names_of_the_protocols(place: str, protocol: type) -> None:
    names = {*vars(protocol), *getattr(protocol, "__annotations__", {})}
    expected = {name for name in names if not name.startswith("_")}
    expected |= {"__call__"} & names if place == "observers.*" else set()
    assert {*INTERFACES[place][0].split()} == expected


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["experiment=operator", "task=operator_l1"], ["experiment=bottles"]])
def test_other_components_train(overrides, page_folder, places) -> None:
    assert run_own(page_folder, places, *overrides).status == "completed"


@pytest.mark.slow
def test_scripts_of_the_page_run(page_folder, places, monkeypatch, capsys) -> None:
    runpy.run_path("make_tokenizer.py")
    options = ["experiment=smoke", "tokenizer=pretrained", f"tokenizer.name={page_folder}/my_tokenizer"]
    assert run_own(page_folder, places, *options).status == "completed"
    monkeypatch.setattr(sys, "argv", ["stop_below.py", *places, "observers=metrics_only", "loop.max_steps=60"])
    runpy.run_path("stop_below.py")
    assert "validation loss below 7.5" in capsys.readouterr().out
    assert os.listdir(page_folder / "outputs")
