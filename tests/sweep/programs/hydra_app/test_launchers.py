"""Sweeps of apps whose workers are jobs of Hydra's launchers, and on a database of several hosts."""

import os
from pathlib import Path
from uuid import uuid4

import optuna
import pytest

from tests.sweep.programs.hydra_app.apps import HARNESS, load_app_study, read_results, run_app

APP = """
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    assert HydraConfig.get().job.name == "app"
    return cfg.x ** 2

if __name__ == "__main__":
    main()
"""
SWEEP = (*HARNESS, "-m", "x=interval(-5,5)", "hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=5")
SLURM = pytest.mark.skipif("HARNESS_TEST_SLURM" not in os.environ, reason="run tests/services/slurm.sh")
RAY = pytest.mark.skipif("HARNESS_TEST_RAY" not in os.environ, reason="run tests/services/ray.sh")
POSTGRES = pytest.mark.skipif("HARNESS_TEST_POSTGRES" not in os.environ, reason="run tests/services/postgres.sh")


@pytest.fixture
def app(tmp_path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "settings.yaml").write_text("x: 3\n")
    return tmp_path


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("joblib", marks=pytest.mark.slow),
        pytest.param("submitit_local", marks=pytest.mark.slow),
        pytest.param("submitit_slurm", marks=[pytest.mark.slurm, SLURM]),
        pytest.param("ray", marks=[pytest.mark.ray, RAY]),
    ],
)
def test_workers_are_jobs_of_a_launcher(app, launcher) -> None:
    done = run_app(app, *SWEEP, "hydra.sweeper.n_jobs=2", f"hydra/launcher={launcher}")
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = app / "multirun/app"
    study = load_app_study(sweep)
    assert read_results(study) == [("completed", "")] * 5
    assert len({trial.user_attrs["worker"]["pid"] for trial in study.trials}) == 2
    assert {path.name for path in (app / "multirun").iterdir()} == {"app"}
    assert (sweep / "4/.hydra/config.yaml").exists()


@pytest.mark.slow
def test_a_study_in_a_database_is_resumed(app) -> None:
    arguments = (*SWEEP, "hydra.sweeper.storage=sqlite:///optuna.db", "hydra.sweeper.study_name=mine")
    assert run_app(app, *arguments, "hydra.sweeper.n_trials=2").returncode == 0
    done = run_app(app, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{app}/optuna.db")
    assert [trial.value for trial in study.trials] == [trial.params["x"] ** 2 for trial in study.trials]
    assert len(study.trials) == 5


@pytest.mark.postgres
@POSTGRES
def test_a_study_in_postgresql(app) -> None:
    storage, name = os.environ["HARNESS_TEST_POSTGRES"], f"app-{uuid4().hex}"
    options = (f"hydra.sweeper.storage={storage}", f"hydra.sweeper.study_name={name}", "hydra.sweeper.n_jobs=2")
    done = run_app(app, *SWEEP, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(optuna.load_study(study_name=name, storage=storage).trials) == 5
