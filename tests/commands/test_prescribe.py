"""The command prescribe: the sweep it prints is valid and belongs to the run."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness import cli
from harness.commands.prescribe import describe_prescription, describe_range_test, estimate_run_cost
from harness.config.compose import without_sweep_keys
from harness.core.events import Diagnosis
from harness.diagnosis.lr_band import LRBand
from harness.diagnosis.prescription import PrescribedOverride, Prescription
from harness.importers.programs import native
from harness.record.lr_range_file import RANGE_TEST_FOLDER, RangeTest, add_data_digest, write_range_test
from harness.sweep.programs.training import followup_sweep
from harness.sweep.programs.training.followup_sweep import RunCost
from harness.sweep.programs.training.request import compose_sweep_request
from harness.sweep.programs.training.validation import check_search_space
from tests.run.test_reproduce import training_settings


def test_sweep_is_valid_and_keeps_the_settings_of_the_run(finished, overrides, capsys) -> None:
    assert cli.main(["prescribe", str(finished)]) == 0
    *_, command, costs = capsys.readouterr().out.splitlines()
    words = shlex.split(command)
    assert words[:3] == ["python", "run.py", "-m"]
    request = compose_sweep_request([*words[3:], *overrides[-3:]])
    check_search_space(request.space, request.options.allow)
    assert "optimizer.lr" in request.space.ranges
    assert (f"sweep.n_trials={request.budget.n_trials}" in words) == (request.budget.runs is None)
    assert request.study_name == f"after_{finished.name}"
    swept = training_settings(without_sweep_keys(request.cfg))
    recorded = training_settings(OmegaConf.load(finished / "config.yaml"))
    assert swept.pop("optimizer").keys() == recorded.pop("optimizer").keys()
    assert swept == recorded
    assert f"{request.budget.describe_size()} by" in costs
    assert "12 steps of" in costs
    assert "4 evaluations of" in costs


def test_a_sweep_whose_trials_pause_has_a_budget_in_runs() -> None:
    prescription = Prescription((PrescribedOverride("optimizer.lr=tag(log,interval(1e-3,1e-1))", "a guess"),))
    overrides = ["start=scratch", "pruner=pausing", "sweep.n_jobs=2"]
    cost = RunCost(100, 4, 1.0, 5.0)
    *_, command, costs = describe_prescription(prescription, overrides, "mine", cost)
    assert "n_trials" not in command
    assert costs.startswith("8 runs in up to 200 trials by 2 workers, each run like this one: 100 steps of 1 s")
    assert costs.endswith("at most 8 min 00 s in all")
    *_, command, costs = describe_prescription(prescription, [*overrides, "pruner=none"], "mine", cost)
    assert "sweep.n_trials=12" in shlex.split(command)
    assert costs.startswith("12 trials by 2 workers, each like this run")


@pytest.fixture
def copied(finished, tmp_path, monkeypatch) -> Path:
    """Return a copy of the run whose outputs have no range test yet."""
    folder = shutil.copytree(finished, tmp_path / "outputs" / "copied", ignore=shutil.ignore_patterns("checkpoints"))
    monkeypatch.setattr(followup_sweep, "project_dir", lambda: tmp_path)
    first, *rest = (folder / "metrics.jsonl").read_text().splitlines()
    start = json.loads(first)
    start["params"]["output_dir"] = str(tmp_path / "outputs")
    del start["crc32"]
    (folder / "metrics.jsonl").write_text("\n".join([json.dumps(start), *rest]) + "\n")
    return folder


def record_range_test(run: Path, band: LRBand | str, **changes: str) -> None:
    start = native.read_start_entry(run / "metrics.jsonl")
    params = add_data_digest(start["params"], start["dataset"])
    folder = run.parent / RANGE_TEST_FOLDER / "test"
    folder.mkdir(parents=True, exist_ok=True)
    write_range_test(folder, {**params, **changes}, [1.0], [2.0], band)


def test_sweep_is_centred_on_the_best_lr_of_the_range_test(copied, capsys) -> None:
    record_range_test(copied, LRBand(2e-2, 9e-1, 3e-1, "the loss fell at 0.3", "weak: a fall of 0.5%"))
    assert cli.main(["prescribe", str(copied)]) == 0
    printed = capsys.readouterr().out
    assert "range test test: the loss fell at 0.3\n  evidence weak: a fall of 0.5%\n" in printed
    assert "optimizer.lr=tag(log,interval(3e-02,3e+00))" in printed


def test_range_test_of_other_data_in_the_same_files_is_left_out(copied, capsys) -> None:
    record_range_test(
        copied, LRBand(2e-2, 9e-1, 3e-1, "the loss fell at 0.3"), **{"data.read.digest.validation": "0" * 16}
    )
    cli.main(["prescribe", str(copied)])
    printed = capsys.readouterr().out
    assert "range test: none of this configuration" in printed
    assert "had data.read.digest.validation=0000000000000000" in printed
    assert native.read_native(copied / "metrics.jsonl").facts.lr_band is None


def test_range_test_of_another_configuration_is_named_with_its_difference(copied, capsys) -> None:
    record_range_test(copied, LRBand(2e-2, 9e-1, 3e-1, "fell", "strong"), **{"optimizer.weight_decay": "0.3"})
    assert cli.main(["prescribe", str(copied)]) == 0
    printed = capsys.readouterr().out
    assert "range test: none of this configuration, so the LR range is a guess" in printed
    assert "  plateau lr-range experiment=smoke" in printed
    assert "the latest one, test, had optimizer.weight_decay=0.3" in printed
    record_range_test(copied, "the model learns at no LR")
    assert cli.main(["prescribe", str(copied)]) == 0
    assert "range test test: no LR range: the model learns at no LR" in capsys.readouterr().out


def test_cost_of_a_resumed_run_counts_its_own_steps(finished, tmp_path) -> None:
    [start, *_] = map(json.loads, (finished / "metrics.jsonl").read_text().splitlines())
    start["total_steps"] = start["effective"]["total_steps"] = 1000
    start["effective"]["first_step"] = 500
    rows = [
        {"kind": "metrics", "step": step, "metrics": metrics, "units": {}}
        for step in range(600, 1001, 100)
        for metrics in ({"perf/steps_per_second": 10.0}, {"val/loss": 3.0})
    ]
    end = {"kind": "end", "step": 1000, "seconds": 75.0, "status": "completed"}
    record = tmp_path / "metrics.jsonl"
    record.write_text("\n".join(map(json.dumps, [start, *rows, end])) + "\n")
    cost = estimate_run_cost(record, native.read_native(record))
    assert (cost.steps, cost.evals, cost.seconds_per_step) == (500, 5, 0.1)
    assert cost.seconds_per_eval == pytest.approx(5)


@pytest.mark.parametrize(
    ("path", "message"),
    [("absent", "is not a file, a folder, or a run"), (".", "has no metrics.jsonl and config.yaml of a run")],
)
def test_path_without_a_run_exits_with_status_2(path, message, tmp_path, capsys) -> None:
    assert cli.main(["prescribe", str(tmp_path / path)]) == 2
    assert message in capsys.readouterr().err


def test_config_with_unknown_keys_exits_with_status_2(finished, tmp_path, capsys) -> None:
    folder: Path = shutil.copytree(finished, tmp_path / "old", ignore=shutil.ignore_patterns("checkpoints"))
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.loop.max_stepz = 3
    del cfg.loop.max_steps
    OmegaConf.save(cfg, folder / "config.yaml")
    assert cli.main(["prescribe", str(folder)]) == 2
    assert "loop.max_stepz: does not exist" in capsys.readouterr().err


LONG = "the loss fell from 7.626 at an LR of 1.1e-04 to 4.944 at 6.6e-03, and rose to its start later"


@pytest.mark.parametrize("band", [LRBand(2e-2, 9e-1, 3e-1, LONG, LONG), None])
def test_what_a_range_test_found_fits_the_terminal(band, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    found = RangeTest(tmp_path, {}, band, LONG)
    lines = [line for text in describe_range_test(found, tmp_path, {}, []) for line in text.splitlines()]
    none = [line for text in describe_range_test(None, tmp_path, {}, ["seed=1"]) for line in text.splitlines()]
    assert len(lines) > 2
    assert max(map(len, [*lines, *none])) <= 60


def test_reasons_of_diagnoses_fit_the_terminal(copied, capsys, monkeypatch) -> None:
    reason = f"train/loss still fell: {LONG}"
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(followup_sweep, "diagnose", lambda *_: [Diagnosis("plateau", 5, 0.9, reason)])
    cli.main(["prescribe", str(copied)])
    head = capsys.readouterr().out.partition("range test")[0]
    assert " ".join(head.split()).endswith(reason)
    assert max(map(len, head.splitlines())) <= 60
