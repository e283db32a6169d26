"""Runs recorded by the transformers Trainer, TensorBoard and MLflow under their own names."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from harness.core.events import EvalEnd
from harness.importers import read_histories, read_history
from harness.importers.programs import mlflow
from harness.observers.metrics_writer import MetricsWriter
from harness.tracking.mlflow_client import LogBatch, TrackingClient
from harness.tracking.run_uploader import EFFECTIVE_TAG, upload_run
from harness.tracking.upload_cursor import UploadCursor
from tests.observers.sample_events import make_effective_settings, sample_run, send_events
from tests.tracking.stores import new_store

LOGGED = [
    {
        "epoch": 0.5,
        "grad_norm": 1.2,
        "learning_rate": 5e-5,
        "loss": 3.5,
        "num_input_tokens_seen": 900,
        "step": 10,
        "train_runtime": 4.2,
    },
    {"epoch": 0.5, "eval_loss": 3.6, "eval_runtime": 1.0, "num_input_tokens_seen": 900, "step": 10},
    {"epoch": 1.0, "grad_norm": 1.1, "learning_rate": 0.0, "loss": 3.4, "num_input_tokens_seen": 1800, "step": 20},
    {
        "epoch": 1.0,
        "total_flos": 1e9,
        "train_loss": 3.45,
        "train_runtime": 9.0,
        "step": 20,
        "train_steps_per_second": 2.2,
    },
]
STATE = {"max_steps": 20, "global_step": 20, "num_train_epochs": 1, "logging_steps": 10, "log_history": LOGGED}


def write_state(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({**STATE, **changes}, indent=2))
    return folder


def test_trainer_state_without_the_summary_entry(tmp_path: Path) -> None:
    history = read_history(write_state(tmp_path / "my run" / "checkpoint-20") / "trainer_state.json")
    assert history["train/loss"].values.tolist() == [3.5, 3.4]
    assert history["val/loss"].steps.tolist() == [10]
    assert history["train/tokens"].values.tolist() == [900, 1800]
    facts = history.facts
    assert (facts.name, facts.status, facts.total_steps, facts.log_every) == ("my run", "completed", 20, 10)
    assert (facts.peak_lr, facts.steps_per_epoch) == (5e-5, 20)


def test_trainer_folder_is_read_from_its_last_checkpoint(tmp_path: Path) -> None:
    entries = [{**entry, "num_input_tokens_seen": 0} for entry in LOGGED[:1]]
    write_state(tmp_path / "run" / "checkpoint-10", global_step=10, log_history=entries)
    history = read_history(tmp_path / "run")
    assert history.facts.status is None
    assert history.tokens_at(history["train/loss"].steps) is None


def test_plateau_schedule_is_read_from_the_scheduler_state(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)
    linear = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    by_accuracy = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=5)
    plateau.step(3.6)
    by_accuracy.step(0.5)
    found = {}
    for name, scheduler in (("plateau", plateau), ("by accuracy", by_accuracy), ("linear", linear)):
        torch.save(scheduler.state_dict(), write_state(tmp_path / name) / "scheduler.pt")
        facts = read_history(tmp_path / name).facts
        found[name] = (facts.schedule, facts.monitor, facts.patience)
    assert found == {
        "plateau": ("Plateau", "val/loss", 3),
        "by accuracy": ("Plateau", None, 5),
        "linear": (None, None, None),
    }
    (tmp_path / "linear" / "scheduler.pt").write_bytes(b"cut off")
    assert read_history(tmp_path / "linear").facts.schedule is None


def test_empty_log_history_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="log_history is empty"):
        read_history(write_state(tmp_path / "run", log_history=[]))


def test_tensorboard_tags(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "logs" / "now")) as writer:
        for step in range(1, 4):
            writer.add_scalar("Train/Loss", 4 - step, step)
            writer.add_scalar("train/learning_rate", 1e-3, step)
            writer.add_scalar("train/epoch", step / 4, step)
            writer.add_scalar("Train/Perplexity", 9, step)
        writer.add_scalar("Val/Loss", 2.5, 3)
    history = read_history(tmp_path / "logs")
    assert history["train/loss"].values.tolist() == [3, 2, 1]
    assert history["val/loss"].steps.tolist() == [3]
    assert history.facts.peak_lr == pytest.approx(1e-3)
    assert history.facts.steps_per_epoch == 4
    [events] = (tmp_path / "logs" / "now").iterdir()
    assert read_history(events)["train/loss"].values.tolist() == [3, 2, 1]


def test_event_files_of_the_folder_itself_are_preferred_to_those_below(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for folder, loss in (("a", 3.0), ("a/1", 2.0)):
        with SummaryWriter(str(tmp_path / folder)) as writer:
            writer.add_scalar("loss", loss, 1)
    assert [history.facts.name for history in read_histories(tmp_path)] == ["a", "a/1"]
    assert read_history(tmp_path / "a")["train/loss"].values.tolist() == [3.0]
    assert read_history(tmp_path / "a" / "1")["train/loss"].values.tolist() == [2.0]


def test_folder_without_a_known_format_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains no log; pass the path of a log, CSV"):
        read_history(tmp_path)


def test_mlflow_run_of_another_program(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    client = TrackingClient(store)
    run_id = client.get_or_create_run("theirs", "1", "their run", 0)
    points = [("loss", 5.0 - step, step, step) for step in range(1, 4)]
    rest = [("eval_loss", 3.0, 4, 3), ("epoch", 1.0, 1, 1), ("epoch", 3.0, 3, 3), ("eval_loss", float("inf"), 9, 4)]
    params = {"learning_rate": "3e-4", "max_grad_norm": "1.0", "max_steps": "-1", "lora_r": "8"}
    params |= {"lr_scheduler_type": "cosine", "warmup_ratio": "0.25", "warmup_steps": "0"}
    client.log_batch(run_id, LogBatch(params, [*points, *rest]))
    client.end_run(run_id, "FINISHED", 9)
    history = mlflow.read_mlflow_run(run_id, store)
    assert history["train/loss"].values.tolist() == [4, 3, 2]
    assert history["val/loss"].values.tolist() == [3, float("inf")]
    facts = history.facts
    assert (facts.name, facts.status, facts.peak_lr, facts.grad_clip) == ("their run", "completed", 3e-4, 1.0)
    assert (facts.total_steps, facts.lora_rank, facts.steps_per_epoch) == (None, 8, 1)
    assert (facts.schedule, facts.requested_warmup, facts.warmup_steps) == ("Cosine", 1, None)


def test_mlflow_run_of_ours(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    client = TrackingClient(store)
    run_id = client.get_or_create_run("default", "1", "our run", 0)
    params = {"expect": "['step 1: val/loss < 3']", "constant.ln_vocabulary": "7.6"}
    effective = make_effective_settings(total_steps=9, param_groups={"matrices": {"peak_lr": 0.02}})
    tags = {"unit.val/loss": "nats/token", "status": "diverged", EFFECTIVE_TAG: json.dumps(asdict(effective))}
    metrics = [("val/loss", 3.0, 1, 9), ("val/loss_se", 0.1, 1, 9)]
    client.log_batch(run_id, LogBatch(params, metrics, tags))
    history = mlflow.read_mlflow_run(run_id, store)
    assert history["val/loss_se"].values.tolist() == [0.1]
    facts = history.facts
    assert (facts.peak_lr, facts.total_steps, facts.uniform_loss) == (0.02, 9, 7.6)
    assert (facts.unit, facts.status, facts.expect) == ("nats/token", "diverged", ("step 1: val/loss < 3",))


def test_unknown_mlflow_run_is_none_and_no_store_is_created(tmp_path: Path) -> None:
    assert mlflow.read_mlflow_run("f" * 32, new_store(tmp_path)) is None
    assert mlflow.read_mlflow_run("f" * 32, f"sqlite:///{tmp_path}/elsewhere.db") is None
    assert not (tmp_path / "elsewhere.db").exists()
    with pytest.raises(ValueError, match="is not a tracking store"):
        mlflow.read_mlflow_run("f" * 32, "mlruns")


def test_mlflow_run_without_a_loss_is_rejected(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    client = TrackingClient(store)
    run_id = client.get_or_create_run("theirs", "1", "their run", 0)
    client.log_batch(run_id, LogBatch(metrics=[("accuracy", 0.5, 1, 1)]))
    with pytest.raises(ValueError, match="no metric of this MLflow run names a loss; its metrics: accuracy"):
        mlflow.read_mlflow_run(run_id, store)


def test_mlflow_run_of_ours_keeps_what_has_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient norms of layers are only in metrics.jsonl, which is an artifact."""
    folder, store = tmp_path / "run", new_store(tmp_path)
    norms = {"blocks.0": 0.5, "blocks.1": 0.25}
    events = (replace(one, grad_norms=norms) if isinstance(one, EvalEnd) else one for one in sample_run(folder))
    send_events([MetricsWriter()], events)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    UploadCursor(store, "default").save(folder)
    upload_run(folder)
    ours, theirs = read_history(folder), mlflow.read_mlflow_run(UploadCursor.load(folder).run_id, store)
    layers = ours.metric_names("grad_norm/")
    assert layers
    assert theirs.metric_names("grad_norm/") == layers
    assert [theirs[name].values.tolist() for name in layers] == [ours[name].values.tolist() for name in layers]
    assert theirs.facts.uniform_loss == ours.facts.uniform_loss
