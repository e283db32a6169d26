"""Whole sweeps that begin with an earlier study or a range test: of our training, a Hydra app and a command."""

import json
import shlex
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness import cli
from harness.core.errors import ConfigError
from harness.sweep.optuna_internals import get_enqueued_params
from harness.sweep.programs.training.sweep import prepare_sweep
from harness.sweep.study.setup import check_existing_study, open_study
from harness.sweep.study.trial_attrs import PRIOR
from tests.conftest import run_main
from tests.sweep.programs.command.sweeps import load_trials, run_sweep, sweep_folder
from tests.sweep.programs.hydra_app.apps import load_app_study, sweep_here
from tests.sweep.programs.hydra_app.conftest import restored_logging  # noqa: F401
from tests.sweep.test_sweeper import load_study
from tests.sweep.tiny_sweeps import TINY, TINY_WITHOUT_LORA, compose_sweep_config, study_folder

SCRIPT = """
import sys
lr = float(sys.argv[sys.argv.index("--lr") + 1]) if "--lr" in sys.argv else 0.5
print("accuracy:", 1 - abs(lr - 0.3))
"""


def test_our_training_takes_the_best_of_an_earlier_sweep(places, tmp_path, monkeypatch, capsys) -> None:
    """Yesterday's runs were shorter."""
    command = [*TINY_WITHOUT_LORA, *places, "sweep.n_jobs=1", "hydra/sweeper/sampler=random"]
    assert run_main(monkeypatch, "-m", *command, "sweep.study=yesterday", "sweep.n_trials=3", "loop.max_steps=2") == 0
    best = load_study(study_folder(tmp_path, "yesterday")).best_trial
    capsys.readouterr()
    later = [*command, "sweep.study=today", "sweep.n_trials=3", "sweep.warm_start=yesterday"]
    if best.number == 0:  # the current configuration, which is run anyway
        later += ["sweep.baseline=false"]
    assert run_main(monkeypatch, "-m", *later) == 0
    folder = study_folder(tmp_path, "today")
    study, text = load_study(folder), capsys.readouterr().out
    [prior] = [trial for trial in study.trials if trial.user_attrs.get(PRIOR)]
    assert prior.params == best.params
    assert f"trial {prior.number} · completed, prior · " in text
    assert f"warm start from yesterday: trial {prior.number}; best of them: trial {prior.number} · val loss" in text
    assert OmegaConf.load(folder / "sweep.yaml").warm_start == "yesterday"
    assert run_main(monkeypatch, "-m", *later) == 0  # prints its results again
    assert len(load_study(folder).trials) == 3


def test_refused_with_status_2_before_anything_is_written(places, tmp_path, monkeypatch, capsys) -> None:
    command = [*TINY_WITHOUT_LORA, *places, "sweep.study=today", "sweep.warm_start=yesterday"]
    for more in ([], ["sweep.dry_run=true"]):
        assert run_main(monkeypatch, "-m", *command, *more) == 2
        assert "sweep.warm_start: 'yesterday' is not a file, a folder, or a run" in capsys.readouterr().err
    assert not study_folder(tmp_path, "today").exists()


def test_the_band_of_a_range_test_of_the_same_configuration(places, tmp_path, capsys) -> None:
    same = [*TINY, *places, "lora=none", "batch.batch_size=8", "loop.max_steps=40"]
    assert cli.main(["lr-range", "--steps", "60", *same]) == 0
    [file] = (tmp_path / "outputs" / "lr_range").glob("*/lr_range.json")
    band = json.loads(file.read_text())["band"]
    sweep = [*same, "sweep.study=today", "sweep.warm_start=lr_range"]
    request, _ = prepare_sweep(compose_sweep_config(sweep), sweep)
    assert request.range_test == file
    trials = open_study(request).study.trials
    assert [set(get_enqueued_params(trial)) for trial in trials[1:4]] == [{"optimizer.lr"}, set(), {"optimizer.lr"}]
    lrs = [get_enqueued_params(trial)["optimizer.lr"] for trial in trials[1::2]]
    assert all(max(1e-4, band["low"]) <= lr <= min(1e-1, band["high"]) for lr in lrs)
    other = [*sweep, "sweep.study=other", "batch.batch_size=4"]
    request, _ = prepare_sweep(compose_sweep_config(other), other)
    assert request.range_test is None
    with pytest.raises(ConfigError, match="no range test of this configuration"):
        check_existing_study(request)


@pytest.mark.usefixtures("restored_logging")
def test_a_hydra_app_that_maximizes(tmp_path) -> None:
    def accuracy(cfg) -> float:
        return 1 - abs(cfg.lr - 0.3)

    config, space = "lr: 0.9\nseed: 0\n", ["lr=interval(0,1)", "hydra.sweeper.direction=maximize"]
    sweep_here(tmp_path, accuracy, config, *space, "hydra.sweeper.n_trials=8")
    earlier = load_app_study(tmp_path / "sweep")
    more = [f"hydra.sweep.dir={tmp_path}/later", f"hydra.sweeper.warm_start={tmp_path}/sweep"]
    sweep_here(tmp_path, accuracy, config, *space, "hydra.sweeper.n_trials=5", *more)
    study = load_app_study(tmp_path / "later")
    priors = [trial.params for trial in study.trials if trial.user_attrs.get(PRIOR)]
    assert len(priors) == 2
    assert priors[0] == earlier.best_params
    assert len(study.trials) == 5
    assert study.best_value >= earlier.best_value
    known = {trial.params["lr"] for trial in earlier.trials}
    assert {trial.params["lr"] for trial in study.trials if trial.user_attrs.get(PRIOR) == {}}.isdisjoint(known)
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.warm_start: 'nothing' is not a file"):
        sweep_here(tmp_path, accuracy, config, *space, f"hydra.sweep.dir={tmp_path}/new",
                   "hydra.sweeper.warm_start=nothing")  # fmt: skip
    assert not (tmp_path / "new").exists()


def test_a_command(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(SCRIPT)
    command = f"-- {sys.executable} -S train.py --lr 'interval(0,1)' --seed 1,2"
    options = "--metric accuracy --maximize --n-trials 7"
    assert run_sweep(f"{options} --study first {command}") == 0
    first = load_trials("first")
    assert run_sweep(f"{options} --study second --warm-start first {command}") == 0
    priors = [trial for trial in load_trials("second") if trial.user_attrs.get(PRIOR)]
    best = max((trial for trial in first if trial.params), key=lambda trial: trial.value)
    assert priors[0].params == best.params
    assert [trial.number for trial in priors] == [1, 3, 5]
    capsys.readouterr()
    assert cli.main(["sweep", "--no-mlflow", "--study", "third", "--warm-start", "absent", *shlex.split(command)]) == 2
    assert "--warm-start: 'absent' is not a file" in capsys.readouterr().err
    assert not sweep_folder("third").exists()
