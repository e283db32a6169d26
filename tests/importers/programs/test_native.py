"""A run of ours read back from its metrics.jsonl."""

from pathlib import Path

import pytest

from harness.core.events import RunEnd, Spike
from harness.importers import read_histories, read_history
from harness.observers.metrics_writer import MetricsWriter
from tests.observers.sample_events import (
    eval_end,
    make_effective_settings,
    run_end,
    run_start,
    sample_run,
    send_events,
    step_end,
)

PARAMS = {
    "schedule.warmup_ratio": "0.02", "schedule.warmup_steps": "None", "lora": "{}", "loop.log_every": "5",
    "expect": "['step 5: val/loss < 3', 'epoch 1: val/loss < 2']",
}  # fmt: skip
EFFECTIVE = make_effective_settings(
    optimizer="Muon+AdamW",
    param_groups={"embeddings": {"peak_lr": 0.001}, "matrices": {"peak_lr": 0.02, "weight_decay": 0.1}},
    grad_clip=float("inf"),
    schedule="Plateau",
    steps_per_epoch=7,
    batch_size=8,
)


def test_read_curves(tmp_path: Path) -> None:
    send_events([MetricsWriter()], sample_run(tmp_path / "a run"))
    history = read_history(tmp_path / "a run")
    assert history["train/loss"].steps.tolist() == [5, 10, 15, 20]
    assert history["val/loss"].steps.tolist() == [0, 10, 20]
    assert history["val/loss_se"].values.tolist() == [0.0125] * 3
    assert history["train/tokens"].values.tolist() == [500, 1000, 1500, 2000]
    facts = history.facts
    assert (facts.name, facts.status, facts.total_steps, facts.unit) == ("a run", "completed", 20, "nats/token")
    assert facts.source.endswith("a run: 8 rows")


def test_read_facts(tmp_path: Path) -> None:
    constants = {"ln_vocabulary": 7.6, "unigram_entropy": 6.1}
    start = run_start(tmp_path, params=PARAMS, effective=EFFECTIVE, constants=constants)
    send_events([MetricsWriter()], iter([start, run_end("interrupted", step=0)]))
    facts = read_history(tmp_path).facts
    assert (facts.optimizer, facts.peak_lr, facts.weight_decay, facts.batch_size) == ("Muon+AdamW", 0.02, 0.1, 8)
    assert facts.grad_clip == float("inf")
    assert (facts.schedule, facts.monitor) == ("Plateau", "val/loss")
    assert facts.requested_warmup == pytest.approx(0.4)
    assert facts.warmup_steps == 0
    assert facts.steps_per_epoch == 7
    assert (facts.uniform_loss, facts.unigram_loss, facts.lora_rank) == (7.6, 6.1, None)
    assert facts.expect == ("step 5: val/loss < 3", "epoch 1: val/loss < 2")
    assert facts.status == "interrupted"


def test_spikes_and_rollbacks(tmp_path: Path) -> None:
    spike = Spike(15, 12, 9.0, 3.0, restored_step=10, lr_factor=0.5, is_continuing=True, example_range=(96, 120))
    steps = [step_end(step, 3.0) for step in range(1, 16)]
    again = [step_end(step, 2.5) for step in range(11, 21)]
    send_events([MetricsWriter()], iter([run_start(tmp_path), *steps, spike, *again, run_end()]))
    history = read_history(tmp_path)
    assert history.spikes == [(15, 12, 9.0, 3.0, (96, 120), 10)]
    assert history["train/loss"].steps.tolist() == [5, 10, 15, 20]
    assert history["train/loss"].values.tolist() == [3.0, 3.0, 2.5, 2.5]


def test_nan_losses_are_infinite_and_existing_checkpoints_are_listed(tmp_path: Path) -> None:
    nan = float("nan")
    for step in (5, 10):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    events = [run_start(tmp_path), eval_end(5, 3.0, 3.0), step_end(10, nan, grad_norm=nan), RunEnd(
        "diverged", "loss nan", 10, 1000, 1.0, 3.0, 5)]  # fmt: skip
    send_events([MetricsWriter()], iter(events))
    history = read_history(tmp_path)
    assert history["train/loss"].values.tolist() == [float("inf")]
    assert history["train/grad_norm"].values.tolist() == []
    assert history.facts.status == "diverged"
    assert history.checkpoints == [5, 10]


def test_runs_in_a_folder_are_all_read(tmp_path: Path) -> None:
    for name in ("one", "two"):
        send_events([MetricsWriter()], sample_run(tmp_path / name))
    assert [history.facts.name for history in read_histories(tmp_path)] == ["one", "two"]
    with pytest.raises(ValueError, match="contains 2 runs; give one of them"):
        read_history(tmp_path)


def test_a_trial_has_the_name_of_its_study(tmp_path: Path) -> None:
    """A folder is named 3, which says nothing beside other runs."""
    (tmp_path / "3").mkdir()
    tags = {"study": "night"}
    events = iter([run_start(tmp_path / "3", tags=tags, effective=EFFECTIVE), run_end("completed", step=0)])
    send_events([MetricsWriter()], events)
    assert read_history(tmp_path / "3").facts.name == "night/3 muon+adamw 2e-2"
