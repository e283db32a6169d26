"""Confirmations of a sweep over a command: its recorded command with other seeds, and the result on test data."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.core.errors import ConfigError
from harness.evidence.confirm.from_study import ConfirmOptions, choose_configs
from harness.record.metrics_file import write_json
from harness.sweep.program_file import read_program, write_program
from harness.sweep.programs.command.rerun import prepare_command_rerun
from harness.sweep.rerun import Rerun, RerunOptions
from harness.sweep.study.trial_attrs import FIXED_VALUES, RETRY_OF, TrialResult
from harness.sweep.swept_study import load_swept_study
from tests.conftest import ROOT
from tests.sweep.programs.command.sweeps import load_trials, read_record, read_request, run_sweep, run_trial, wait_for

# Loss 3 + (x - 0.5)^2, plus noise from the seed; on test data 0.1 more.
SCRIPT = """#!/bin/sh
x=0 seed=1
while [ $# -gt 0 ]; do case $1 in --x) x=$2; shift 2;; --seed) seed=$2; shift 2;; *) exit 9;; esac; done
awk -v x=$x -v s=$seed 'BEGIN { v = 3 + (x - 0.5) ^ 2 + (s * (37 + 10 * x) % 101) / 10000;
  print "step 1 val_loss: 9"; printf "step 2 val_loss: %.5f\\n", v; printf "test_loss: %.5f\\n", v + 0.1 }'
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a sweep over the script, of three trials."""
    folder, previous = tmp_path_factory.mktemp("swept"), Path.cwd()
    os.chdir(folder)
    Path("train.sh").write_text(SCRIPT)
    assert run_sweep("--sampler grid --env API_KEY=secret-key-123 -- sh train.sh --x 0.4,0.8,1") == 0
    yield folder
    os.chdir(previous)


@pytest.fixture
def _here(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swept)
    monkeypatch.setenv("API_KEY", "secret-key-123")


def prepare(**options: str | int) -> Rerun:
    """Return the program of the sweep prepared with these options."""
    study = load_swept_study("train", Path("outputs"))
    return prepare_command_rerun(study, RerunOptions(**options))  # type: ignore[arg-type]


def confirm(line: str) -> int:
    return cli.main(["confirm", "train", *line.split()])


def read_result() -> dict[str, Any]:
    return json.loads(Path("outputs/sweeps/train/confirm/confirm.json").read_text())


@pytest.mark.usefixtures("_here")
def test_a_command_is_confirmed_on_test_data(capsys: pytest.CaptureFixture[str]) -> None:
    """The output says what is run before it is run, and what it has shown."""
    command = "--top 1 --seed-flag --seed --test-metric test_loss --margin 0.001"
    assert confirm(f"{command} --dry-run") == 0
    planned = capsys.readouterr().out
    assert not Path("outputs/sweeps/train/confirm").exists()
    assert confirm(command) == 0
    output = capsys.readouterr().out
    found = read_result()
    first = found["seeds"][0]
    printed = f"Runs in {Path.cwd()}\nCommand of baseline:\n  API_KEY='***' sh train.sh --seed {first}\n"
    assert f"{printed}Command of trial 0:\n  API_KEY='***' sh train.sh --x 0.4 --seed {first}\n" in planned
    assert f"{printed}trial 0 " in output
    assert "trial 0 is better than the baseline: test loss -0.2" in output
    assert (found["status"], found["metric"], found["split"], found["objective"]) == (
        "decided", "test_loss", "test", "loss",
    )  # fmt: skip
    baseline, best = found["configs"]
    assert best["command"] == f"API_KEY='***' sh train.sh --x 0.4 --seed {first}"
    assert [run["seed"] for run in best["runs"]] == list(range(first, first + 4))  # decided
    for run in (*baseline["runs"], *best["runs"]):
        assert run["values"]["test_loss"] == pytest.approx(run["values"]["loss"] + 0.1)
    assert len({run["values"]["loss"] for run in best["runs"]}) == 4
    assert confirm(command) == 0  # nothing is run again
    assert read_result()["configs"] == found["configs"]


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "--seed-flag: the command has no option called seed"),
        ({"seed_flag": "--seed", "test_metric": "val_loss"}, "--test-metric: val_loss: is what the sweep has opti"),
    ],
)  # fmt: skip
def test_options_that_do_not_suit_the_program_are_refused(options: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(**options)
    assert problem in str(caught.value)


@pytest.fixture
def moved(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sweep, whose program.json a test may change."""
    shutil.copytree(swept, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    monkeypatch.setenv("API_KEY", "secret-key-123")
    return tmp_path / "moved"


def change_program(**changes: Any) -> None:
    path = Path("outputs/sweeps/train/program.json")
    recorded = json.loads(path.read_text())
    del recorded["sha256"]
    write_json(path, {**recorded, **changes})


def read_template() -> dict[str, Any]:
    return json.loads(Path("outputs/sweeps/train/program.json").read_text())["settings"]


@pytest.mark.usefixtures("moved")
def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "new-key")
    assert prepare(seed_flag="--seed").program["template"]["variables"] == {"API_KEY": "new-key"}
    monkeypatch.delenv("API_KEY")
    with pytest.raises(ConfigError) as caught:
        prepare(seed_flag="--seed")
    assert str(caught.value) == (
        "API_KEY: is a secret of study train, which is not recorded; set the variable as in "
        "API_KEY=... plateau confirm train"
    )


@pytest.mark.usefixtures("moved")
def test_secret_words_are_refused() -> None:
    """An address in the command loses its password when it is recorded, and would be another one."""
    settings = read_template()
    settings["template"]["words"] += ["--db", "postgres://host/db"]
    change_program(settings=settings, hidden=["settings.template.words.5"])
    with pytest.raises(ConfigError, match="its command has a secret, which is not recorded: --db postgres://host/db;"):
        prepare(seed_flag="--seed")


def test_places_of_secrets_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.sh").write_text(SCRIPT)
    request = read_request("--env TOKEN=abcdefgh1 -- sh train.sh --db postgres://u:pass@host/db --x 1,2")
    request.folder.mkdir(parents=True)
    write_program(request)
    recorded = read_program(request.folder)
    assert set(recorded.hidden) == {"settings.template.variables.TOKEN", "settings.template.words.3"}
    assert "pass" not in json.dumps(recorded.settings)
    assert "abcdefgh1" not in json.dumps(recorded.settings)


@pytest.mark.usefixtures("moved")
def test_a_program_that_is_gone_is_refused(tmp_path: Path) -> None:
    Path("train.sh").rename("train2.sh")
    change_program(cwd=str(Path.cwd()))
    with pytest.raises(ConfigError, match=r"train.sh: there is no such file; check its path"):
        prepare(seed_flag="--seed")
    change_program(cwd=str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"the folder .*gone, in which its program ran, does not exist; restore it"):
        prepare(seed_flag="--seed")


@pytest.mark.usefixtures("_here")
def test_other_variables_than_in_the_sweep_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N_LAYERS", "7")
    [notice] = prepare(seed_flag="--seed").notices
    assert "N_LAYERS: unset -> 7 since the study began" in notice


@pytest.mark.usefixtures("_here")
def test_the_metric_is_that_of_the_sweep() -> None:
    """The sweep has found it by itself; a line of test data must not become the metric of the confirmation."""
    assert prepare(seed_flag="--seed").program["metric"]["metric"] == "val_loss"


@pytest.mark.usefixtures("_here")
def test_trials_that_differ_in_the_seed_only_are_one_candidate() -> None:
    """The sweep has searched the seed too."""
    study = load_swept_study("train", Path("outputs"))
    trials = tuple(
        replace(trial, params={"x": 0.4 if trial.number < 2 else 1, "seed": trial.number}) for trial in study.trials
    )
    _, candidates = choose_configs(replace(study, trials=trials), ConfirmOptions(), "seed")
    assert [(one.name, one.values) for one in candidates] == [("trial 0", {"x": 0.4}), ("trial 2", {"x": 1})]


CURVE = "for i in 1 2 3; do echo step $i val_loss: 0.$((3 + i % 2)) test_loss: 0.6$i; done"


@pytest.mark.parametrize(
    ("code", "options", "values"),
    [
        (CURVE, "", (0.4, 0.63)),
        (CURVE, "--best", (0.3, 0.62)),  # of the step at which the metric is best, not the best on test data
        (f"{CURVE}; echo test_loss: 0.9", "", (0.4, 0.9)),
        ("echo val_loss: 1; echo 'Test loss = 2'", "", (1.0, 2.0)),
        ("echo '{\"val_loss\": 1, \"test_loss\": 2}' >$OUT/r.json", "--read '{out}/r.json' --env OUT={out}",
         (1.0, 2.0)),
    ],
)  # fmt: skip
def test_the_result_on_test_data_is_read_from_the_same_trial(
    code: str, options: str, values: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_test_trial(code, options, tmp_path, monkeypatch)
    assert (result.status, result.values) == ("completed", values), result.reason
    assert read_record("train")[-1]["values"] == {"loss": values[0], "test_loss": values[1]}


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("echo val_loss: 1", "failed", "--test-metric: no metric 'test_loss' in the output; found val_loss (1 value)"),
        ("echo val_loss: nan", "diverged", "val_loss is nan"),
        ("echo val_loss: 1 test_loss: inf", "diverged", "test_loss is inf"),
        ("echo test_loss: 1", "failed", "--test-metric: test_loss is what the sweep has optimized"),
    ],
)  # fmt: skip
def test_trials_without_a_result_on_test_data(
    code: str, status: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_test_trial(code, "", tmp_path, monkeypatch)
    assert result.status == status
    assert result.reason.startswith(reason)
    assert result.ends_sweep == (status == "failed")


def run_test_trial(code: str, options: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> TrialResult:
    """Run a trial of a confirmation with the test metric test_loss of a shell script."""
    monkeypatch.chdir(folder)
    Path("train.sh").write_text(code)
    return run_trial(f"{options} -- sh train.sh 'interval(0,1)'", {"arg1": 0.25}, test_metric="test_loss")


@pytest.mark.slow
def test_a_killed_confirmation_resumes_to_the_exact_number_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.sh").write_text(SCRIPT.replace("awk", "sleep 0.4; awk").replace("(x - 0.5) ^ 2", "0"))
    assert run_sweep("--sampler grid -- sh train.sh --x 0.4,0.8") == 0
    command = [sys.executable, "-m", "harness", "confirm", "train", "--top", "1", "--seed-flag", "--seed"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    journal = "train/confirm"

    def count_completed() -> int:
        with suppress(KeyError):  # it has no study yet
            if Path("outputs/sweeps/train/confirm/study.journal").exists():
                return sum(trial.values is not None for trial in load_trials(journal, "train confirm"))
        return 0

    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        before = count_completed()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        wait_for(lambda before=before: count_completed() >= before + 2)  # type: ignore[misc]
        process.send_signal(number)
        assert process.wait(timeout=60) == status
    assert 4 <= count_completed() < 10
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0
    trials = load_trials(journal, "train confirm")
    assert sum(RETRY_OF not in trial.user_attrs for trial in trials) == 10
    runs = [json.dumps(trial.user_attrs[FIXED_VALUES]) for trial in trials if trial.values is not None]
    assert len(set(runs)) == len(runs) == 10
