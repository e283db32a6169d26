"""Invented events of a run."""

import math
from collections.abc import Iterator
from pathlib import Path

from harness.core.effective_settings import EffectiveSettings
from harness.core.events import EvalEnd, Event, Notice, Observer, RunEnd, RunStart, StepEnd
from harness.core.task import Metric

TOKENS_PER_STEP = 100


def make_effective_settings(**changes: object) -> EffectiveSettings:
    """Settings of a run of AdamW on one CPU."""
    given = {
        "device": "cpu",
        "devices": 1,
        "threads": 1,
        "parameters": 740352,
        "trainable_parameters": 740352,
        "total_steps": 20,
        "steps_per_epoch": 50,
        "warmup_steps": 0,
        "evals": 2,
        "batch_size": 32,
        "micro_batch_size": 32,
        "accum_steps": 1,
        "grad_clip": 1.0,
        "autocast": "float32",
        "optimizer": "AdamW",
        "param_groups": {"matrices": {"peak_lr": 0.001, "weight_decay": 0.1}},
        "schedule": "Cosine",
    }
    return EffectiveSettings(**{**given, **changes})


def run_start(folder: Path, total_steps: int = 20, log_every: int = 5, **changes: object) -> RunStart:
    given = {
        "name": folder.name,
        "folder": folder,
        "total_steps": total_steps,
        "log_every": log_every,
        "params": {"optimizer.lr": "0.001"},
        "effective": make_effective_settings(total_steps=total_steps),
        "tags": {"host": "here", "command": "python run.py", "mlflow.parentRunId": "p" * 32},
        "constants": {"uniform": 8.32, "unigram": 6.11},
        "dataset": {"name": "pydoc_qa", "digest": "d" * 64},
    }
    return RunStart(**{**given, **changes})


def step_end(step: int, loss: float = 2.0, **changes: object) -> StepEnd:
    given = {
        "step": step,
        "tokens": step * TOKENS_PER_STEP,
        "loss": loss,
        "lr": 0.001 * step,
        "grad_norm": 1.5,
        "is_clipped": True,
        "skips": 0,
        "seconds": 0.25,
        "step_tokens": TOKENS_PER_STEP,
    }
    return StepEnd(**{**given, **changes})


def eval_end(step: int, loss: float, best: float, **changes: object) -> EvalEnd:
    metrics = {"loss": Metric(loss, "nats/token", 0.0125), "coverage": Metric(1.0, "share")}
    given = {"metrics": metrics, "best_step": step, "evals_since_best": 0, "fraction_done": step / 20, "seconds": 1.0}
    return EvalEnd(
        step=step, tokens=step * TOKENS_PER_STEP, best_val_loss=best, is_best=loss <= best, **{**given, **changes}
    )


def run_end(status: str = "completed", reason: str = "", step: int = 20, **changes: object) -> RunEnd:
    given = {"tokens": step * TOKENS_PER_STEP, "seconds": 12.0, "best_val_loss": 3.0, "best_step": 20}
    return RunEnd(status=status, reason=reason, step=step, **{**given, **changes})


def sample_run(folder: Path, total_steps: int = 20, status: str = "completed", reason: str = "") -> Iterator[Event]:
    """Yield the events of a run with evaluations before, halfway and after, a notice, and two files as artifacts."""
    folder.mkdir(parents=True, exist_ok=True)
    files = (folder / "config.yaml", folder / "command.txt")
    for file in files:
        file.write_text(file.name)
    yield run_start(folder, total_steps)
    yield eval_end(0, 8.0, 8.0)
    yield Notice("the warm-up rounds to 0 steps")
    for step in range(1, total_steps + 1):
        loss = 3 + 5 * math.exp(-step / 5)
        yield step_end(step, loss)
        if step in (total_steps // 2, total_steps):
            yield eval_end(step, loss + 0.1, loss + 0.1)
    yield run_end(status, reason, total_steps, artifacts=files)


def send_events(observers: list[Observer], events: Iterator[Event]) -> None:
    """Send all events to all observers and close them, as the runner does."""
    for event in events:
        for observer in observers:
            observer(event)
    for observer in observers:
        observer.close()
