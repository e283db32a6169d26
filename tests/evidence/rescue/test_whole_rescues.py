"""Whole rescues of real, tiny trainings, in one go and interrupted in every stage."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from harness import cli
from harness.core.paths import PACKAGE
from harness.evidence.report.report_files import REPORT_JSON
from harness.sweep.programs.training.request import compose_sweep_request
from tests.evidence.rescue.rescues import TINY, FinishedRescue, read_tokens, run_rescue

pytestmark = pytest.mark.slow
STAGES = ["preflight", "diagnosis", "prescription", "sweep", "confirmation", "report"]
OPTIONS = ["--budget-runs", "3", "--seeds", "3"]


@pytest.fixture(scope="module")
def rescued(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> FinishedRescue:
    """Return a rescue of 3 runs, and 2 configurations on 3 seeds."""
    folder = tmp_path_factory.mktemp("rescued")
    places = [f"output_dir={folder}/outputs", f"cache_dir={cache_dir}"]
    return run_rescue(*TINY, *places, *OPTIONS, "--to", f"{folder}/rescue", "--json")


def test_rescue_ends_with_a_confirmed_config_and_a_report(rescued) -> None:
    assert rescued.status == 0, rescued.err
    assert list(rescued.result["stages"]) == STAGES
    ending = rescued.result["ending"]
    assert ending["result"] == "better"
    assert ending["sentence"].startswith("better config shown: optimizer.lr=")
    assert "on the test split, 3 seeds" in ending["sentence"]
    assert "chosen from " in ending["sentence"]
    words = shlex.split(ending["command"])
    assert words[:2] == ["python", "run.py"]
    assert any(word.startswith("optimizer.lr=0.0") for word in words)
    assert json.loads((rescued.folder / "report" / REPORT_JSON).read_text())["schema"] == 1
    written = json.loads((rescued.folder / "rescue.json").read_text())
    del written["sha256"]
    assert written == rescued.result


def test_report_goes_to_the_store_on_the_command_line(places, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    words = [word for word in TINY if word != "~observers.mlflow"]
    found = run_rescue(*words, *places, *OPTIONS, "--to", f"{tmp_path}/rescue", "--json")
    assert (found.status, "not in MLflow" in found.err) == (0, False), found.err
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    reported = [run for run in client.search_runs(experiments) if client.list_artifacts(run.info.run_id, "report")]
    assert len(reported) == 1


def test_test_split_is_set_aside_with_a_note(rescued) -> None:
    assert "note: data.test_share=0.1 sets a tenth of the data aside" in rescued.err
    assert rescued.get_details("confirmation")["split"] == "test"
    assert "data.test_share=0.1" in rescued.result["inputs"]["overrides"]


def test_diagnosis_and_sweep_stay_within_the_budget(rescued) -> None:
    details = rescued.get_details("sweep")
    whole = read_tokens(Path(details["folder"]) / "0")
    assert 2 * whole < details["tokens"] <= 3 * whole
    assert details["baseline"]["value"] == rescued.get_details("diagnosis")["best_val_loss"]


def test_same_command_repeats_the_result_without_training(rescued) -> None:
    files = {path: path.stat().st_mtime_ns for path in rescued.folder.rglob("metrics.jsonl")}
    again = run_rescue(*rescued.words)
    assert (again.status, again.result) == (0, rescued.result)
    assert again.err.count("done before") == len(STAGES)
    assert files == {path: path.stat().st_mtime_ns for path in rescued.folder.rglob("metrics.jsonl")}


def test_other_arguments_in_the_same_folder_are_refused(rescued) -> None:
    again = run_rescue(*("4" if word == "3" else word for word in rescued.words))
    assert (again.status, again.out) == (2, "")
    assert "holds another rescue (budget_runs: 3 -> 4; seeds: 3 -> 4)" in again.err


def test_steps_by_hand_are_valid_commands(rescued, capsys) -> None:
    stages = rescued.result["stages"]
    words = shlex.split(stages["prescription"]["next_command"])
    assert words[:3] == ["python", "run.py", "-m"]
    request = compose_sweep_request(words[3:])
    assert str(request.folder) == rescued.get_details("sweep")["folder"]
    assert request.study_name == rescued.get_details("sweep")["study"]
    assert shlex.split(stages["preflight"]["next_command"])[:3] == ["python", "run.py", "experiment=smoke"]
    for stage in ("diagnosis", "sweep", "confirmation"):  # the sweep's next step is the same confirmation
        plateau, *arguments = shlex.split(stages[stage]["next_command"])
        assert plateau == "plateau"
        assert cli.main(arguments) == 0, capsys.readouterr().err


def test_study_is_diagnosed_confirmed_and_reported(rescued, tmp_path) -> None:
    study = rescued.get_details("sweep")["folder"]
    found = run_rescue(study, "--seeds", "3", "--to", f"{tmp_path}/rescue", "--json")
    assert found.status == 0, found.err
    assert list(found.result["stages"]) == ["diagnosis", "confirmation", "report"]
    assert found.result["ending"] == rescued.result["ending"]  # the confirmation is the same study
    assert found.get_details("diagnosis")["baseline"]["trial"] == 0


def start_rescue(folder: Path, places: list[str]) -> subprocess.Popen[str]:
    words = ["rescue", *TINY, *places, *OPTIONS, "--to", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_rescue_goes_on_after_a_signal_in_every_stage(number, rescued, places, tmp_path) -> None:
    """The signal is sent as soon as a stage begins, once in each stage; then the rescue is the uninterrupted one."""
    folder = tmp_path / "rescue"
    for stage in STAGES:
        process = start_rescue(folder, places)
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith(f"] {stage}\n"):
                process.send_signal(number)
                break
        _, err = process.communicate(timeout=120)
        if number == signal.SIGINT:
            assert process.returncode == 128 + number, err
            assert "to continue: plateau rescue experiment=smoke" in err
            assert f"interrupted in stage {stage}" in err
        assert "Traceback" not in err
    process = start_rescue(folder, places)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found = json.loads((folder / "rescue.json").read_text())
    for key in ("n_measured", "best", "baseline"):
        assert found["stages"]["sweep"]["details"][key] == rescued.get_details("sweep")[key]
    assert found["ending"]["sentence"] == rescued.result["ending"]["sentence"]
