"""`python run.py` end to end: recording, reproducibility, interruption, one process and two."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from harness.config.compose import compose_config
from harness.core.checkpoint_names import checkpoint_name
from harness.run.runner import run
from tests.conftest import ROOT, drop_announcements, run_main, run_script
from tests.tracking.stores import free_port, new_store

SMOKE = ["experiment=smoke", "device=cpu", "data.val_fraction=0.01", "model.layers=1", "model.width=16",
         "batch.batch_size=8"]  # fmt: skip


def read_record(folder: Path) -> list[dict]:
    """Return the entries of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read_series(folder: Path, name: str) -> list[float]:
    return [line["metrics"][name] for line in read_record(folder) if name in line.get("metrics", {})]


def find_only_run(tmp_path: Path) -> Path:
    [folder] = (tmp_path / "outputs").iterdir()
    return folder


def test_run_is_recorded_in_mlflow(places, tmp_path, monkeypatch, capsys) -> None:
    new_store(tmp_path)
    assert run_main(monkeypatch, *SMOKE, *places, "optimizer=adamw", "schedule=cosine") == 0
    folder = find_only_run(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "default"]
    [recorded] = client.search_runs([experiment.experiment_id])
    date, _, name = folder.name.rpartition("_")
    assert recorded.info.run_name == f"{name} {date}"
    assert recorded.info.status == "FINISHED"
    params = recorded.data.params
    assert params["optimizer.class"] == "torch.optim.AdamW"
    assert params["used.total_steps"] == "20"
    assert params["used.warmup_steps"] == "1"
    assert float(params["used.peak_lr.matrices"]) == float(params["optimizer.lr"])
    tags = recorded.data.tags
    assert tags["status"] == "completed"
    assert {"host", "device", "python", "version.torch", "data.digest", "command"} <= tags.keys()
    assert tags["command"].startswith("python run.py experiment=smoke")
    steps = [metric.step for metric in client.get_metric_history(recorded.info.run_id, "train/loss")]
    assert sorted(steps) == list(range(1, 21))
    history = client.get_metric_history(recorded.info.run_id, "val/loss")
    assert [m.value for m in sorted(history, key=lambda m: m.step)] == read_series(folder, "val/loss")
    artifacts = {artifact.path for artifact in client.list_artifacts(recorded.info.run_id)}
    assert {"config.yaml", "command.txt", "metrics.jsonl", "figures"} <= artifacts
    assert recorded.inputs.dataset_inputs[0].dataset.digest
    assert "plateau ui" in capsys.readouterr().out


def test_same_command_gives_identical_results_from_cached_data(places, tmp_path) -> None:
    (tmp_path / "own.txt").write_text("the cat sat on the mat and the dog lay by the door\n" * 900)
    own = ["data=text", f"data.source.path={tmp_path}/own.txt", "tokenizer=bpe", "tokenizer.vocab_size=270"]
    commands = [
        compose_config([*SMOKE, *places, *own, f"cache_dir={tmp_path}/cache", "observers=metrics_only"])
        for _ in range(2)
    ]
    first = run(commands[0])
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/**/*.npy")}
    second = run(commands[1])
    assert read_series(first.folder, "train/loss") == read_series(second.folder, "train/loss")
    assert first.best_val_loss == second.best_val_loss
    assert written
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/**/*.npy")}
    assert first.folder != second.folder


def test_diverged_run_exits_with_1_and_keeps_finite_weights(places, tmp_path, monkeypatch, capsys) -> None:
    import torch

    from harness.training.checkpoint import load_weights

    wild = ["observers=metrics_only", "optimizer=sgd", "optimizer.lr=1e12", "loop.grad_clip=null"]
    assert run_main(monkeypatch, *SMOKE, *places, *wild) == 1
    stderr = drop_announcements(capsys.readouterr().err)
    assert stderr.startswith("diverged: ")
    assert stderr.count("\n") == 1  # Hydra adds no message of its own
    folder = find_only_run(tmp_path)
    assert read_record(folder)[-1]["status"] == "diverged"
    weights = load_weights(folder / "checkpoints" / "best" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_ctrl_c_saves_a_checkpoint(places, tmp_path) -> None:
    command = [sys.executable, "run.py", *SMOKE, *places, "observers=metrics_only", "loop.max_steps=100000"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        wait_for_steps(tmp_path, 3)
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGINT
    assert "interrupted: stopped by a signal" in stderr
    assert "Traceback" not in stderr
    folder = find_only_run(tmp_path)
    end = read_record(folder)[-1]
    assert end["status"] == "interrupted"
    assert (folder / "checkpoints" / checkpoint_name(end["step"]) / "model.safetensors").exists()


def wait_for_steps(tmp_path: Path, steps: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        records = list(tmp_path.glob("outputs/*/metrics.jsonl"))
        if records and records[0].read_text().count("train/loss") >= steps:
            return
        time.sleep(0.1)
    raise AssertionError("no step within 60 s")


def test_two_processes_match_one(places, tmp_path) -> None:
    overrides = [
        *SMOKE,
        *places,
        "observers=metrics_only",
        "model.dropout=0.0",
        "batch.micro_batch_size=2",
        "data=pydoc_qa",
    ]
    alone = run(compose_config(overrides))
    run_with_torchrun(*overrides)
    together = next(f for f in (tmp_path / "outputs").iterdir() if f != alone.folder)
    one, two = read_series(alone.folder, "train/loss"), read_series(together, "train/loss")
    assert len(one) == len(two) == 20
    assert two == pytest.approx(one, abs=1e-5)
    assert read_series(together, "val/loss") == pytest.approx(read_series(alone.folder, "val/loss"), abs=1e-5)


def run_with_torchrun(*overrides: str, n_processes: int = 2) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n_processes), "--standalone"]
    command = [*launcher, "run.py"]
    done = subprocess.run([*command, *overrides], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_signal_to_one_rank_stops_all(places, tmp_path) -> None:
    command = [sys.executable, "run.py", *SMOKE, *places, "observers=metrics_only", "loop.max_steps=100000"]
    group = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [subprocess.Popen(command, cwd=ROOT, env={**group, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    try:
        wait_for_steps(tmp_path, 3)
        ranks[1].terminate()  # the rank without observers
        assert [rank.wait(60) for rank in ranks] == [128 + signal.SIGINT, 128 + signal.SIGTERM]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert read_record(find_only_run(tmp_path))[-1]["status"] == "interrupted"


def test_a_run_that_loses_a_process_is_interrupted(places, tmp_path) -> None:
    command = [sys.executable, "run.py", *SMOKE, *places, "observers=metrics_only", "loop.max_steps=100000"]
    group = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [subprocess.Popen(command, cwd=ROOT, env={**group, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    try:
        wait_for_steps(tmp_path, 3)
        ranks[1].kill()
        assert ranks[0].wait(60) == 1
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    end = read_record(find_only_run(tmp_path))[-1]
    assert (end["status"], end["reason"][:33]) == ("interrupted", "process 0 has lost another one: R")


def test_config_folder_and_component_of_a_user(places, tmp_path, monkeypatch, capsys) -> None:
    own = tmp_path / "mine"
    (own / "conf" / "optimizer").mkdir(parents=True)
    (own / "my_package.py").write_text(
        "import torch\nclass Careful(torch.optim.SGD):\n"
        "    def __init__(self, params, lr):\n        super().__init__(params, lr=lr / 2)\n"
    )
    (own / "conf" / "optimizer" / "careful.yaml").write_text("_target_: my_package.Careful\n_partial_: true\nlr: 0.1\n")
    overrides = ["--config-dir", str(own / "conf"), *SMOKE, *places, "observers=metrics_only", "optimizer=careful"]
    done = run_script(*overrides, env={"PYTHONPATH": str(own), "HARNESS_TRUST": "my_package.Careful"})
    assert done.returncode == 0, done.stderr
    assert read_record(find_only_run(tmp_path))[0]["effective"]["param_groups"]["matrices"]["peak_lr"] == 0.05
    monkeypatch.syspath_prepend(own)
    assert run_main(monkeypatch, *overrides) == 2
    assert "HARNESS_TRUST=my_package.Careful" in capsys.readouterr().err


BASED = [*SMOKE[1:], "observers=metrics_only", "loop.max_steps=4", "optimizer.lr=0.01", "start=base", "lora=all_linear"]
BASED += ["start.source='experiment=smoke'"]


def test_base_model_is_trained_once_and_cached(places_without_bases, tmp_path) -> None:
    first = run(compose_config([*places_without_bases, *BASED]))
    assert {folder.name.split("_")[-1] for folder in (tmp_path / "outputs").iterdir()} == {"smoke", "adamw-cosine"}
    second = run(compose_config([*places_without_bases, *BASED]))
    assert len(list((tmp_path / "outputs").iterdir())) == 3
    assert read_series(first.folder, "train/loss") == read_series(second.folder, "train/loss")
    assert read_series(first.folder, "val/loss") == read_series(second.folder, "val/loss")


@pytest.mark.slow
def test_two_processes_with_a_base_model_match_one(places_without_bases, tmp_path) -> None:
    run_with_torchrun(*places_without_bases, *BASED)
    [together] = (tmp_path / "outputs").glob("*_adamw-cosine")
    alone = run(compose_config([*places_without_bases, *BASED]))
    assert read_series(together, "train/loss") == pytest.approx(read_series(alone.folder, "train/loss"), abs=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains(precision, places) -> None:
    result = run(
        compose_config([*SMOKE, *places, "observers=metrics_only", f"precision={precision}", "loop.max_steps=6"])
    )
    losses = read_series(result.folder, "train/loss")
    assert result.status == "completed"
    assert losses[-1] < losses[0]
    assert read_record(result.folder)[0]["effective"]["autocast"].startswith(
        {"bf16": "bfloat16", "fp16": "float16"}[precision]
    )


def test_failed_run_exits_with_1_and_is_recorded(places, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "breaking.py").write_text(
        "import torch\nclass Breaks(torch.optim.SGD):\n"
        "    def step(self, closure=None):\n        raise RuntimeError('broken optimizer')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HARNESS_TRUST", "breaking.Breaks")
    new_store(tmp_path)
    overrides = ["optimizer._target_=breaking.Breaks", "~optimizer.betas", "~optimizer.eps", "~observers.figures"]
    assert run_main(monkeypatch, *SMOKE, *places, *overrides) == 1
    stderr = capsys.readouterr().err
    assert "failed: RuntimeError: broken optimizer" in stderr
    assert "Traceback" not in stderr
    file = find_only_run(tmp_path) / "traceback.txt"
    assert f"; traceback: {file}" in stderr
    assert "broken optimizer" in file.read_text()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [recorded] = client.search_runs([client.get_experiment_by_name("default").experiment_id])
    assert recorded.info.status == "FAILED"
    assert recorded.data.tags["reason"] == f"RuntimeError: broken optimizer ({tmp_path}/breaking.py, line 4)"


@pytest.mark.parametrize("lora", ["all_linear", "with_head"])
def test_warm_start_merges_adapters(lora, places, tmp_path) -> None:
    adapted = run(compose_config([*SMOKE, *places, "observers=metrics_only", f"lora={lora}", "optimizer.lr=0.01"]))
    warm = ["lora=none", "start=warm", f"start.source={adapted.folder}", "loop.max_steps=1"]
    again = run(compose_config([*SMOKE, *places, "observers=metrics_only", *warm]))
    assert read_series(again.folder, "val/loss")[0] == pytest.approx(adapted.best_val_loss, rel=1e-5)


def test_observer_that_raises_is_disabled(places, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "my_observers.py").write_text(
        "from harness.core.events import Observer\nclass Broken(Observer):\n"
        "    def __call__(self, event):\n        raise OSError('its disk is full')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HARNESS_TRUST", "my_observers.Broken")
    broken = "+observers.broken._target_=my_observers.Broken"
    result = run(compose_config([*SMOKE, *places, "observers=metrics_only", broken, "loop.max_steps=2"]))
    assert result.status == "completed"
    assert len(read_series(result.folder, "train/loss")) == 2
    assert capsys.readouterr().err.count("observer Broken is disabled after OSError: its disk is full") == 1


def test_diverged_base_model_ends_the_run(places_without_bases, tmp_path, monkeypatch, capsys) -> None:
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    wild = "override /optimizer: sgd\n\noptimizer: {lr: 1e12}\nloop: {max_steps: 4, grad_clip: null}\nname: wild\n"
    start = "# @package _global_\ndefaults:\n  - override /lora: none\n  - override /start: scratch\n  - "
    (own / "wild.yaml").write_text(start + wild)
    overrides = ["--config-dir", str(tmp_path / "conf"), *places_without_bases, *BASED[:-1]]
    assert run_main(monkeypatch, *overrides, "start.source='experiment=wild'") == 1
    stderr = capsys.readouterr().err
    assert "diverged: base model " in stderr
    assert "Traceback" not in stderr
