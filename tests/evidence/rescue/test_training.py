"""Rescues of real, tiny trainings: each stage, what it costs, and how it continues."""

import json
import math
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from harness import cli
from harness.evidence.rescue.diagnosis_stages import DIAGNOSIS, run_diagnosis
from harness.evidence.rescue.prescription_stage import run_prescription
from harness.evidence.rescue.record import RescueRecord, StageResult
from harness.evidence.rescue.request import TrainingRescue, read_training_rescue
from harness.record.metrics_file import read_entries
from harness.sweep.programs.training.request import compose_sweep_request
from tests.run.test_run import SMOKE

TINY = [*SMOKE, "loop.max_steps=12", "loop.evals=2", "optimizer.lr=1e-4", "~observers.mlflow"]


@dataclass(frozen=True)
class Finished:
    """A rescue from start to end, with what it printed."""

    words: list[str]
    status: int
    out: str
    err: str

    @property
    def result(self) -> dict:
        return json.loads(self.out)


def run_rescue(*words: str) -> Finished:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(["rescue", *words])
    return Finished(list(words), status, out.getvalue(), err.getvalue())


def read_tokens(run: Path) -> int:
    return next(entry["tokens"] for entry, _ in read_entries(run / "metrics.jsonl") if entry["kind"] == "end")


@pytest.fixture(scope="module")
def rescued(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Finished:
    """Return a rescue of 3 runs, one of them trial 0 of its sweep."""
    folder = tmp_path_factory.mktemp("rescued")
    places = [f"output_dir={folder}/outputs", f"cache_dir={cache_dir}"]
    return run_rescue(*TINY, *places, "--budget-runs", "3", "--to", f"{folder}/rescue", "--json")


def test_every_stage_is_recorded_with_its_result(rescued) -> None:
    assert rescued.status == 0, rescued.err
    assert list(rescued.result["stages"]) == ["preflight", "diagnosis", "prescription", "sweep"]
    assert rescued.result["inputs"]["budget_runs"] == 3
    assert rescued.result["stages"]["preflight"]["details"]["status"] in ("pass", "warn")
    assert "optimizer.lr" in rescued.result["stages"]["prescription"]["summary"]
    written = json.loads((Path(rescued.result["folder"]) / "rescue.json").read_text())
    del written["sha256"]
    assert written == rescued.result


def test_diagnosed_run_is_trial_0(rescued) -> None:
    stages = rescued.result["stages"]
    run, sweep = Path(stages["diagnosis"]["details"]["run"]), Path(stages["sweep"]["details"]["folder"])
    assert stages["sweep"]["details"]["baseline"]["number"] == 0
    assert stages["sweep"]["details"]["baseline"]["values"]["optimizer.lr"] == 1e-4
    assert stages["sweep"]["details"]["baseline"]["value"] == stages["diagnosis"]["details"]["best_val_loss"]
    first, copied = ([entry for entry, _ in read_entries(path / "metrics.jsonl")] for path in (run, sweep / "0"))
    assert copied[1:] == first[1:]
    assert copied[0]["id"] != first[0]["id"]
    assert copied[0]["tags"]["study"] == f"rescue_{sweep.parent.name}"


def test_diagnosis_and_sweep_stay_within_the_budget(rescued) -> None:
    details = rescued.result["stages"]["sweep"]["details"]
    whole = read_tokens(Path(details["folder"]) / "0")
    assert 2 * whole < details["tokens"] <= 3 * whole
    assert details["n_measured"] >= 3


def test_same_command_repeats_the_result_without_training(rescued) -> None:
    files = {path: path.stat().st_mtime_ns for path in Path(rescued.result["folder"]).rglob("metrics.jsonl")}
    again = run_rescue(*rescued.words)
    assert (again.status, again.result) == (0, rescued.result)
    assert again.err.count("done before") == 4
    assert files == {path: path.stat().st_mtime_ns for path in Path(rescued.result["folder"]).rglob("metrics.jsonl")}


def test_other_arguments_in_the_same_folder_are_refused(rescued) -> None:
    words = ["4" if word == "3" else word for word in rescued.words]
    again = run_rescue(*words)
    assert (again.status, again.out) == (2, "")
    assert "holds another rescue (budget_runs: 3 -> 4)" in again.err


def test_steps_by_hand_are_valid_commands(rescued) -> None:
    stages = rescued.result["stages"]
    words = shlex.split(stages["prescription"]["next_command"])
    assert words[:3] == ["python", "run.py", "-m"]
    request = compose_sweep_request(words[3:])
    assert str(request.folder) == stages["sweep"]["details"]["folder"]
    assert request.study_name == stages["sweep"]["details"]["study"]
    assert shlex.split(stages["preflight"]["next_command"])[:3] == ["python", "run.py", "experiment=smoke"]
    assert stages["diagnosis"]["next_command"].startswith("plateau prescribe ")


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
        rescue = read_training_rescue(
            [*TINY, *places, *given], None, budget_runs, tmp_path / "rescue", "plateau rescue"
        )
        record = RescueRecord(rescue.folder, rescue.command, rescue.inputs)
        rescue.folder.mkdir()
        record.finish_stage(DIAGNOSIS, StageResult("diagnosed", {"run": str(finished)}))
        return rescue, record

    return make


def test_budget_of_one_run_is_used_up_by_the_diagnosis(make_rescue) -> None:
    found = run_prescription(*make_rescue(budget_runs=1))
    assert found.ending is not None
    assert found.ending.result == "not shown"
    assert found.ending.sentence.endswith("the diagnosed run has used up the budget; raise --budget-runs")


def test_more_workers_than_runs_are_left_do_not_exceed_the_budget(make_rescue) -> None:
    rescue, record = make_rescue("sweep.n_jobs=8", budget_runs=2)
    request = compose_sweep_request(run_prescription(rescue, record).details["overrides"])
    assert request.workers.n_jobs == 1
    [tokens] = [
        entry["tokens"] for entry, _ in read_entries(rescue_run(record) / "metrics.jsonl") if "best_step" in entry
    ]
    assert request.budget.max_tokens == tokens + 1


def rescue_run(record: RescueRecord) -> Path:
    return Path(record.get_details(DIAGNOSIS)["run"])


def test_without_a_prescription_the_file_of_the_experiment_is_searched(make_rescue, finished, tmp_path) -> None:
    """Underfitting alone prescribes a longer run, which would cost more than the present config."""
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
