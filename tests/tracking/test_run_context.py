"""Tags that link the MLflow runs of a Hydra app to the trials that started them."""

import os
from pathlib import Path

import pytest
from omegaconf import DictConfig

from harness.tracking.mlflow_client import connect_to_store
from harness.tracking.run_context import CONTEXT_VARIABLE, TRIAL_FOLDER_TAG
from tests.sweep.programs.hydra_app.apps import sweep_here
from tests.tracking.stores import new_store


@pytest.mark.slow
def test_runs_that_an_app_starts_name_their_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    uri = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv(CONTEXT_VARIABLE, '{"team": "vision"}')

    def train(cfg: DictConfig) -> float:
        with mlflow.start_run():
            mlflow.log_metric("loss", cfg.x)
        if cfg.x == 2:
            raise ValueError("too large")
        return float(cfg.x)

    sweep_here(tmp_path, train, "x: 0\n", "x=1,2", "hydra/sweeper/sampler=grid")
    assert os.environ[CONTEXT_VARIABLE] == '{"team": "vision"}'
    runs = connect_to_store(uri).search_runs(["0"])
    folders = {run.data.tags[TRIAL_FOLDER_TAG]: run.data.metrics["loss"] for run in runs}
    assert sorted(folders) == [str(tmp_path / "sweep" / str(number)) for number in range(len(runs))]
    assert sorted(folders.values()) == [1, 2]
    assert {run.data.tags["team"] for run in runs} == {"vision"}
