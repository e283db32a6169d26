"""`python -m harness prescribe`: the command that it prints is accepted, and is about the run that it was given."""

import json
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness import cli
from harness.commands.prescribe import estimate_run_cost
from harness.config.compose import NON_TRAINING_KEYS, compose_config, without_sweep_keys
from harness.core.events import Diagnosis
from harness.importers import native
from harness.run.reproduce import keep_accepted_overrides, reproduce_overrides, select_valid_overrides
from harness.sweep.request import compose_sweep_request
from harness.sweep.space.validation import check_search_space
from tests.observers.sample_events import make_effective_settings


def plain(cfg) -> dict:
    return {
        key: value for key, value in OmegaConf.to_container(cfg, resolve=True).items() if key not in NON_TRAINING_KEYS
    }


def test_the_sweep_is_accepted_and_its_present_config_is_the_run(finished, overrides, capsys) -> None:
    assert cli.main(["prescribe", str(finished)]) == 0
    *_, command, costs = capsys.readouterr().out.splitlines()
    words = shlex.split(command)
    assert words[:3] == ["python", "run.py", "-m"]
    asked = compose_sweep_request([*words[3:], *overrides[-3:]])
    check_search_space(asked.space, asked.options.allow)
    assert "optimizer.lr" in asked.space.ranges
    assert f"sweep.n_trials={asked.budget.n_trials}" in words
    assert asked.study_name == f"after_{finished.name}"
    same, wanted = plain(without_sweep_keys(asked.cfg)), plain(OmegaConf.load(finished / "config.yaml"))
    assert same.pop("optimizer").keys() == wanted.pop("optimizer").keys()
    assert same == wanted
    assert f"{asked.budget.n_trials} trials by" in costs
    assert "12 steps of" in costs
    assert "4 evaluations of" in costs


def test_a_resumed_run_costs_its_own_steps(tmp_path) -> None:
    effective = asdict(make_effective_settings(total_steps=1000, first_step=500))
    rows = [{"kind": "start", "name": "a", "total_steps": 1000, "params": {}, "effective": effective, "constants": {}}]
    rows += [
        {"kind": "metrics", "step": step, "metrics": metrics, "units": {}}
        for step in range(600, 1001, 100)
        for metrics in ({"perf/steps_per_second": 10.0}, {"val/loss": 3.0})
    ]
    rows += [{"kind": "end", "step": 1000, "seconds": 75.0, "status": "completed"}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    spent = estimate_run_cost(tmp_path / "metrics.jsonl", native.read_native(tmp_path / "metrics.jsonl"))
    assert (spent.steps, spent.evals, spent.seconds_per_step) == (500, 5, 0.1)
    assert spent.seconds_per_eval == pytest.approx(5)


TOGETHER = ("loop.epochs=null", "loop.max_steps=9")  # one without the other is refused
LOCKED, ABSENT, NEGATIVE = "loop.epochs=9", "data.shares=0.2", "loop.grad_clip=-1"


@pytest.mark.parametrize(
    ("typed", "wanted", "kept"),
    [
        (["experiment=headlines"], (LOCKED, ABSENT, NEGATIVE, "loop.patience=2"), ("loop.patience=2",)),
        (["experiment=smoke", "loop.max_steps=null", "loop.epochs=1"], TOGETHER, TOGETHER),
        (["schedule=plateau", "schedule.patience=3"], ("schedule=cosine",), ("schedule=cosine",)),
    ],
)
def test_of_overrides_those_are_told_that_are_taken_with_what_was_typed(typed, wanted, kept) -> None:
    assert select_valid_overrides(typed, wanted) == kept


def test_a_verdict_tells_no_override_that_the_run_would_refuse(finished, tmp_path) -> None:
    OmegaConf.save(without_sweep_keys(compose_config(["experiment=operator"])), tmp_path / "config.yaml", resolve=True)
    shutil.copy(finished / "metrics.jsonl", tmp_path)
    noisy = Diagnosis("noisy evaluation", 9, 0.9, "few", {}, ("data.val_fraction=0.2",))
    assert [diagnosis.overrides for diagnosis in keep_accepted_overrides(tmp_path, [noisy])] == [()]


def copy_with_overrides(overrides: list[str], finished: Path, folder: Path) -> Path:
    """Copy a run's record, with other recorded overrides."""
    folder.mkdir()
    shutil.copy(finished / "config.yaml", folder)
    record = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    record[0]["overrides"] = overrides
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, record)) + "\n")
    return folder


def test_what_was_typed_is_typed_again_and_the_rest_added(finished, tmp_path) -> None:
    overrides = ["experiment=smoke", "name=one", "optimizer.lr=0.5", "sweep.n_trials=9", "seed=5"]
    found = reproduce_overrides(copy_with_overrides(overrides, finished, tmp_path / "typed"))
    assert found[:3] == ["experiment=smoke", "optimizer.lr=0.5", "seed=5"]
    assert "optimizer.lr=0.002" in found
    assert "model.layers=1" in found
    assert plain(without_sweep_keys(compose_config(found))) == plain(OmegaConf.load(finished / "config.yaml"))


def test_where_what_was_typed_is_not_here_the_run_s_experiment_and_all_that_differs_is_spelled_out(
    finished, tmp_path
) -> None:
    overrides = ["hydra.searchpath=[file://conf2]", "experiment=of_mine", "seed=5"]
    found = reproduce_overrides(copy_with_overrides(overrides, finished, tmp_path / "typed"))
    assert found[0] == "experiment=smoke"  # by the run's name
    assert plain(without_sweep_keys(compose_config(found))) == plain(OmegaConf.load(finished / "config.yaml"))


WORDS = r"start.source='o\'clock \x, {y}\\'"


@pytest.mark.parametrize("options", [["lora=none", "optimizer=muon"], ["start=warm", WORDS]])
def test_any_configuration_is_typed_again(options, finished, tmp_path) -> None:
    cfg = without_sweep_keys(compose_config(options))
    folder = tmp_path / "other"
    folder.mkdir()
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    shutil.copy(finished / "metrics.jsonl", folder)
    assert plain(without_sweep_keys(compose_config(reproduce_overrides(folder)))) == plain(cfg)


@pytest.mark.parametrize(
    ("place", "said"), [("absent", "is not a file, a folder, or a run"), (".", "is no run of ours")]
)
def test_what_is_no_run_is_named_with_exit_status_2(place, said, tmp_path, capsys) -> None:
    assert cli.main(["prescribe", str(tmp_path / place)]) == 2
    assert said in capsys.readouterr().err


def test_a_run_of_another_version_of_the_project_is_named(finished, tmp_path, capsys) -> None:
    folder: Path = shutil.copytree(finished, tmp_path / "old", ignore=shutil.ignore_patterns("checkpoints"))
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.loop.max_stepz = 3
    del cfg.loop.max_steps
    OmegaConf.save(cfg, folder / "config.yaml")
    assert cli.main(["prescribe", str(folder)]) == 2
    told = capsys.readouterr()
    assert "loop.max_stepz: does not exist" in told.err
    assert told.out == ""
