"""Sweeps of other sweepers: a parent run in MLflow and a sweep folder, as for ours."""

from tests.conftest import run_main
from tests.run.test_run import SMOKE
from tests.tracking.stores import new_store
from tests.tracking.test_sweep_uploader import artifact_dir, read_runs

SHORT_RUNS = ["hydra.sweeper.params=null", *SMOKE, "loop.max_steps=2"]


def test_sweep_of_hydra_optuna_sweeper(places, tmp_path, monkeypatch) -> None:
    store = new_store(tmp_path)
    sampler = ["hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1"]
    counts = ["hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"]
    space = ["optimizer=sgd", "loop.grad_clip=null", "optimizer.lr=tag(log,interval(1e-1,1e13))"]
    overrides = [*sampler, *counts, *SHORT_RUNS, *places, "observers=trial", *space]
    assert run_main(monkeypatch, "-m", "hydra/sweeper=optuna", *overrides) == 0
    [folder] = (tmp_path / "outputs" / "sweeps").iterdir()
    runs = read_runs(store)
    sweep = runs.pop(folder.name)
    assert sorted(name.partition(" ")[0] for name in runs) == [f"{folder.name}/{number}" for number in range(3)]
    found = {run.data.tags["trial"]: run for run in runs.values()}
    assert {run.data.tags["study"] for run in found.values()} == {folder.name}
    assert sweep.data.tags.keys() >= {"user", "mlflow.user", "host", "version.torch"}
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {sweep.info.run_id}
    assert [found[name].data.tags["status"] for name in "012"] == ["diverged", "diverged", "completed"]
    assert (sweep.info.status, sweep.data.tags["best_trial"]) == ("FINISHED", "2")
    assert sweep.data.tags["best.optimizer.lr"] == found["2"].data.params["optimizer.lr"]
    expected_params = {
        "sweeper": "optuna",
        "n_trials": "3",
        "n_jobs": "1",
        "space.optimizer.lr": "tag(log,interval(1e-1,1e13))",
    }
    assert sweep.data.params == expected_params
    assert (sweep.data.metrics["sweep/trials.diverged"], sweep.data.metrics["sweep/trials.completed"]) == (2, 1)
    assert (artifact_dir(sweep) / "optimization_results.yaml").is_file()


def test_invalid_first_run(places, tmp_path, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, "-m", "hydra/sweeper=basic", *SHORT_RUNS, *places, "optimizer.lr=-1,1e-3") == 2
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1] == "optimizer.lr: -1 must be a finite number above 0"
    assert "Traceback" not in errors
    assert not (tmp_path / "mlflow.db").exists()
    assert not list((tmp_path / "outputs" / "sweeps").glob("*/sweep.json"))
