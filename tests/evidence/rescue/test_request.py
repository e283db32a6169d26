"""Arguments of a rescue: wrong input is refused before anything is written, and names tell rescues apart."""

import shutil
from pathlib import Path

import pytest

from harness import cli
from harness.core.errors import ConfigError
from harness.evidence.rescue.request import TrainingRescue, read_training_rescue

SMOKE = ["experiment=smoke", "device=cpu"]


def read_rescue(given: list[str], run: Path | None = None, budget_runs: int = 12) -> TrainingRescue:
    return read_training_rescue(given, run, None, budget_runs=budget_runs, top=1, seeds=3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget-runs", "0"], "--budget-runs: 0 must be at least 1"),
        (["--budget-runs", "many"], "argument --budget-runs: invalid int value: 'many'"),
        (["optimizer.lr=1e-4,1e-3"], "optimizer.lr: has several values, and rescue chooses what is searched"),
        (["optimizer.lr=tag(log,interval(1e-4,1e-2))"], "optimizer.lr: has several values"),
        (["sweep.n_trials=3"], "sweep.n_trials: rescue sets it itself"),
        (["sweep.study=mine"], "sweep.study: rescue sets it itself"),
        (["sweep={n_trials:3}"], "sweep.n_trials: rescue sets it itself"),
        (["hydra.sweep.dir=x"], "hydra.sweep.dir: rescue sets it itself"),
        (["hydra/launcher=joblib"], "hydra/launcher: rescue sets it itself"),
        (["optimizr=adamw"], "did you mean optimizer=adamw?"),
        (["optimizer.lr=-1"], "optimizer.lr: -1 must be a finite number above 0"),
        (["start=resume", "start.run=nowhere"], "start.run: 'nowhere'"),
        (["data.source.url=http://me:secret@host/x"], "the address has a password, which the rescue would store"),
        (["smok"], "RUN|STUDY: 'smok' is not a file, a folder, or a run"),
        (["one", "two"], "RUN|STUDY: one two: name one"),
        (["--seeds", "2"], "--seeds: 2 must be at least 3"),
        (["--top", "0"], "--top: 0 must be at least 1"),
        (["--seed-flag", "--seed"], "--seed-flag: is for a STUDY"),
        (["--nothing"], "`plateau rescue --help` lists the arguments"),
        (["preflight=maybe"], "preflight: 'maybe' must be one of stop, warn, skip"),
    ],
)
def test_wrong_input_exits_with_status_2_and_writes_nothing(words, message, tmp_path, capsys) -> None:
    given = [*SMOKE, "+data.source.url=x"] if "url" in words[0] else SMOKE
    given = SMOKE if len(words) == 1 and "=" not in words[0] and words[0] != "--nothing" else given
    status = cli.main(["rescue", *given, f"output_dir={tmp_path}/outputs", f"cache_dir={tmp_path}/cache", *words])
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert message in captured.err
    assert not list(tmp_path.iterdir())


def test_folders_are_named_after_the_configuration_and_what_is_changed(places) -> None:
    names = [read_rescue([*SMOKE, *places, *more]).folder.name for more in ([], ["seed=2"], ["sweep.n_jobs=1"])]
    assert names[0] != names[1]
    assert names[0] == names[2]  # the training is the same
    assert all(name.startswith("smoke-") for name in names)
    assert read_rescue(["experiment=smoke"]).folder.name == "smoke"
    assert read_rescue([]).folder.name == "default"


def test_credentials_are_in_no_record_and_the_training_has_them(places) -> None:
    uri = "tracking.uri=postgresql://me:secret-word@host/db"
    rescue = read_rescue([*SMOKE, *places[:2], uri, "~observers.mlflow"])
    assert "secret-word" not in str(rescue.inputs) + str(rescue.public_overrides)
    assert uri in rescue.overrides


def test_run_keeps_its_settings(finished, tmp_path) -> None:
    rescue = read_rescue(["sweep.n_jobs=2", "device=cpu"], finished)
    assert rescue.run == finished
    assert "optimizer.lr=2e-3" in rescue.overrides
    assert rescue.sweep_overrides == ("sweep.n_jobs=2",)
    recorded = ("output_dir=", "cache_dir=", "tracking.", "observers")  # of its machine, or of somebody else
    assert not [one for one in rescue.overrides if one.startswith(recorded)]
    assert rescue.folder.name == finished.name
    with pytest.raises(ConfigError, match="RUN has its own settings; leave it out"):
        read_rescue(["optimizer.lr=1"], finished)


def test_log_of_another_program_is_refused(tmp_path) -> None:
    (tmp_path / "log.txt").write_text("step 1 loss 3\n")
    with pytest.raises(ConfigError, match="try diagnose for other logs"):
        read_rescue([], tmp_path / "log.txt")


def test_resumed_experiment_restarts_its_schedule(finished, tmp_path) -> None:
    copied = shutil.copytree(finished, tmp_path / "outputs" / "run")
    resumed = [*SMOKE, "start=resume", f"start.run={copied}", f"output_dir={tmp_path}/outputs"]
    rescue = read_rescue(resumed)
    assert "start.restart_schedule=true" in rescue.overrides
    assert any("restart_schedule=true is set" in note for note in rescue.notices)
    with pytest.raises(ConfigError, match="restart_schedule: False: every trial would inherit"):
        read_rescue([*resumed, "start.restart_schedule=false"])
