"""Stages of rescues of real, tiny trainings: what they cost, what they search, and how they continue."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.evidence.rescue.diagnosis_stages import run_diagnosis
from harness.evidence.rescue.prescription_stage import PRESCRIPTION, run_prescription
from harness.evidence.rescue.record import DIAGNOSIS, RescueRecord, StageResult
from harness.evidence.rescue.request import TrainingRescue, read_training_rescue
from harness.evidence.rescue.sweep_stage import run_sweep_stage
from harness.record.metrics_file import read_entries
from harness.sweep.programs.training.request import compose_sweep_request
from tests.evidence.rescue.rescues import TINY, read_tokens, run_rescue
from tests.run.test_run import SMOKE

MakeRescue = Callable[..., tuple[TrainingRescue, RescueRecord]]


def test_fault_ends_the_rescue_before_anything_is_run(places, leaked_data, tmp_path) -> None:
    ended = run_rescue(*SMOKE, *places, *leaked_data, "--to", f"{tmp_path}/rescue", "--json")
    assert ended.status == 1
    assert list(ended.result["stages"]) == ["preflight"]
    assert ended.result["ending"]["result"] == "fault"
    assert "your training has a fault, and nothing was searched: evaluation: " in ended.err
    assert not list((tmp_path / "rescue").glob("*/metrics.jsonl"))


@pytest.fixture
def make_rescue(finished: Path, tmp_path: Path, places: list[str]):
    """Return a function that returns a rescue and its record, with the diagnosed run already there."""

    def make(*given: str, budget_runs: int = 12) -> tuple[TrainingRescue, RescueRecord]:
        overrides = [*TINY, *places, *given]
        rescue = read_training_rescue(overrides, None, tmp_path / "rescue", budget_runs=budget_runs, top=1, seeds=3)
        record = RescueRecord(rescue.folder, "plateau rescue", rescue.inputs)
        rescue.folder.mkdir()
        record.finish_stage(DIAGNOSIS, StageResult("diagnosed", {"run": str(finished)}))
        return rescue, record

    return make


def test_budget_of_one_run_is_used_up_by_the_diagnosis(make_rescue) -> None:
    found = run_prescription(*make_rescue(budget_runs=1))
    assert found.ending is not None
    assert found.ending.result == "not shown"
    assert found.ending.sentence.endswith("the diagnosed run has used up the budget; raise --budget-runs")


def test_the_sweep_has_the_budget_of_the_rescue(make_rescue) -> None:
    """The diagnosed run becomes trial 0, so it counts."""
    found = run_prescription(*make_rescue("sweep.n_jobs=8", budget_runs=2))
    assert found.summary.endswith("at the cost of 1 more run")
    request = compose_sweep_request(found.details["overrides"])
    assert (request.budget.runs, request.budget.max_tokens, request.workers.n_jobs) == (2, None, 8)


def test_without_a_prescription_the_file_of_the_experiment_is_searched(make_rescue, finished, tmp_path) -> None:
    """Underfitting alone prescribes a longer run, which would cost more than the baseline."""
    rescue, record = make_rescue()
    slow = write_falling_losses(finished, tmp_path / "falling")
    record.finish_stage(DIAGNOSIS, StageResult("diagnosed", {"run": str(slow)}))
    found = run_prescription(rescue, record)
    assert found.details["source"] == "sweeps=default"
    assert "loop.max_steps=40 is not tried, since it costs more tokens" in found.details["notes"][0]
    request = compose_sweep_request(found.details["overrides"])
    assert request.space.searched_keys >= {"optimizer.lr", "loop.grad_clip"}  # also the LR of the command line
    assert request.current_values["optimizer.lr"] == 1e-4


def write_falling_losses(run: Path, folder: Path) -> Path:
    """Copy a run with losses that fall steadily to its end, at a constant LR."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    lines = []
    for entry, _ in read_entries(folder / "metrics.jsonl"):
        for name, start in (("val/loss", 5.0), ("train/loss", 5.0)):
            if name in entry.get("metrics", {}):
                entry["metrics"] |= {name: start - 0.5 * math.log2(1 + entry["step"]), "train/lr": 2e-3}
        lines.append(json.dumps(entry))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_run_that_was_killed_is_repeated_and_kept(make_rescue, finished) -> None:
    rescue, record = make_rescue()
    killed = rescue.folder / "rescue_run-1"
    shutil.copytree(finished, killed, ignore=shutil.ignore_patterns("checkpoints"))
    lines = (killed / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_bytes(b"".join(lines[:6]))
    found = run_diagnosis(rescue, record)
    assert found.details["run"] == str(rescue.folder / "rescue_run-2")
    assert (killed / "metrics.jsonl").read_bytes() == b"".join(lines[:6])


def test_run_that_ended_before_it_was_recorded_is_not_repeated(make_rescue, finished) -> None:
    rescue, record = make_rescue()
    shutil.copytree(finished, rescue.folder / "rescue_run-1")
    assert run_diagnosis(rescue, record).details["run"] == str(rescue.folder / "rescue_run-1")


def test_diagnosed_run_is_trial_0_and_the_sweep_stays_within_the_budget(make_rescue, finished) -> None:
    """The run of the fixture has other settings than the baseline, which does not matter here."""
    rescue, record = make_rescue("loop.max_steps=20", "optimizer.lr=2e-3", "pruner=none", budget_runs=2)
    record.finish_stage(PRESCRIPTION, run_prescription(rescue, record))
    details = run_sweep_stage(rescue, record).details
    assert details["baseline"]["number"] == 0
    assert details["baseline"]["values"]["optimizer.lr"] == 2e-3
    assert details["n_measured"] == 2
    assert read_tokens(finished) < details["tokens"] <= 2 * read_tokens(finished)
    first, copied = ([entry for entry, _ in read_entries(path / "metrics.jsonl")]
                     for path in (finished, Path(details["folder"]) / "0"))  # fmt: skip
    assert copied[1:] == first[1:]
    assert copied[0]["id"] != first[0]["id"]
    assert copied[0]["tags"]["study"] == "rescue_rescue"
    end = next(entry for entry in first if entry["kind"] == "end")
    assert details["baseline"]["value"] == end["best_val_loss"]
    again = run_sweep_stage(rescue, record).details
    assert again == details
