"""Overhead of a training step: our Trainer with the default observers, a bare PyTorch loop, and transformers.Trainer
with MLflow. The three take turns in one process.

    python benchmarks/step_overhead.py
"""

import argparse
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from harness.config.compose import compose_config
from harness.config.validation import validate_config
from harness.core.distributed import ProcessGroup
from harness.core.events import Event, RunEnd, RunStart, StepEnd
from harness.models.gpt import GPT
from harness.run.build import build_observers, build_parts, build_task
from harness.training.loop import Trainer

VOCABULARY, LENGTH, WIDTH, HEADS = 512, 64, 96, 4
PEAK_LR, WARMUP, CLIP, DECAY = 1e-3, 0.05, 1.0, 0.01


@dataclass(frozen=True)
class Scale:
    """Batch in rows, length of a run in steps, layers of the model, and the device."""

    batch: int
    steps: int
    layers: int = 3
    device: torch.device = torch.device("cpu")  # noqa: RUF009


def make_model(layers: int) -> GPT:
    torch.manual_seed(0)
    return GPT(vocab_size=VOCABULARY, positions=LENGTH, layers=layers, width=WIDTH, heads=HEADS, dropout=0.0)


def compute_lr(step: int, steps: int) -> float:
    warmup = round(WARMUP * steps)
    if step < warmup:
        return PEAK_LR * (step + 1) / warmup
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def run_bare_loop(stream: torch.Tensor, scale: Scale) -> list[float]:
    """Return the time at the start and after each step, in seconds."""
    network = make_model(scale.layers).to(scale.device)
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    vectors = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, weight_decay=DECAY, fused=True)  # as in the other two
    windows = (len(stream) - 1) // LENGTH
    times_at_step = [time.perf_counter()]
    for step in range(scale.steps):
        starts = torch.randint(windows, (scale.batch,)) * LENGTH
        rows = starts[:, None] + torch.arange(LENGTH + 1)
        tokens = stream[rows].to(scale.device)
        for group in optimizer.param_groups:
            group["lr"] = compute_lr(step, scale.steps)
        optimizer.zero_grad()
        logits = network(tokens[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        loss.item()
        times_at_step.append(time.perf_counter())
    return times_at_step


def run_ours(text: Path, scale: Scale, folder: Path) -> list[float]:
    cfg = compose_config(
        [
            "experiment=smoke", "data=text", f"data.source.path={text}", "tokenizer=bpe",
            f"tokenizer.vocab_size={VOCABULARY}", f"data.sequence_length={LENGTH}", f"model.positions={LENGTH}",
            f"model.width={WIDTH}", f"model.layers={scale.layers}", f"model.heads={HEADS}", "model.dropout=0.0",
            f"optimizer.lr={PEAK_LR}", f"optimizer.weight_decay={DECAY}", f"schedule.warmup_ratio={WARMUP}",
            f"loop.max_steps={scale.steps}", "loop.evals=1", "loop.log_every=10", f"batch.batch_size={scale.batch}",
            f"cache_dir={folder}/cache", f"output_dir={folder}/outputs", f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"device={scale.device.type}",
        ]
    )  # fmt: skip
    settings = validate_config(cfg)
    processes = ProcessGroup(scale.device)
    parts = build_parts(cfg, settings, processes, build_task(cfg, settings, processes))
    observers = build_observers(cfg)
    run_folder = Path(tempfile.mkdtemp(dir=folder))
    times_at_step: list[float] = []

    def emit(event: Event) -> None:
        for observer in observers:
            observer(event)
        if isinstance(event, StepEnd):
            times_at_step.append(time.perf_counter())

    dataset = {"name": "", "digest": ""}
    emit(RunStart("bench", run_folder, scale.steps, cfg.loop.log_every, {}, parts.effective, {}, {}, dataset))
    Trainer(parts.task, parts.state, parts.plan, processes, policies=parts.policies, emit=emit).train()
    emit(RunEnd("completed", "", scale.steps, 0, 0.0, 0.0, 0))
    for observer in observers:
        observer.close()
    return times_at_step


def run_transformers_trainer(stream: torch.Tensor, scale: Scale, folder: Path) -> list[float]:
    import transformers

    times_at_step: list[float] = []

    class StepTimer(transformers.TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            times_at_step.append(time.perf_counter())

    class ModelWithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gpt = make_model(scale.layers)

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.gpt(input_ids).logits
            return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten())}

    windows = stream[: (len(stream) - 1) // LENGTH * LENGTH + 1]
    data = [
        {"input_ids": windows[i : i + LENGTH], "labels": windows[i + 1 : i + LENGTH + 1]}
        for i in range(0, len(windows) - 1, LENGTH)
    ]
    os.environ.update(MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db", HF_MLFLOW_LOG_ARTIFACTS="0")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=scale.steps, per_device_train_batch_size=scale.batch,
        learning_rate=PEAK_LR, weight_decay=DECAY, max_grad_norm=CLIP, lr_scheduler_type="cosine",
        warmup_steps=round(WARMUP * scale.steps), logging_steps=10, report_to=["mlflow"], save_strategy="no",
        disable_tqdm=True, use_cpu=scale.device.type == "cpu",
    )  # fmt: skip
    transformers.Trainer(ModelWithLoss(), arguments, train_dataset=data, callbacks=[StepTimer()]).train()
    import mlflow

    mlflow.end_run()
    return times_at_step


def milliseconds_per_step(times_at_step: list[float], skipped: int) -> float:
    """Return the mean milliseconds per step without the first `skipped` steps."""
    return 1000 * (times_at_step[-1] - times_at_step[skipped]) / (len(times_at_step) - 1 - skipped)


def make_arms(stream: torch.Tensor, text: Path, scale: Scale, folder: Path) -> dict[str, Callable[[], list[float]]]:
    return {
        "bare loop": lambda: run_bare_loop(stream, scale),
        "ours": lambda: run_ours(text, scale, folder),
        "Trainer": lambda: run_transformers_trainer(stream, scale, folder),
    }


def measure_rounds(arms: dict[str, Callable[[], list[float]]], scale: Scale, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds per step of each round; the arms take turns."""
    milliseconds_by_arm: dict[str, list[float]] = {arm: [] for arm in arms}
    for round_number in range(rounds + 1):
        for arm, run in arms.items():
            milliseconds = milliseconds_per_step(run(), scale.steps // 10)
            if round_number:  # the first round pays for migrations, caches and imports
                milliseconds_by_arm[arm].append(milliseconds)
    return milliseconds_by_arm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stream = torch.randint(VOCABULARY, (200_000,), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        generator = random.Random(0)
        words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(2000)]
        text.write_text(" ".join(generator.choices(words, k=60_000)))
        scale = Scale(args.batch, args.steps)
        milliseconds_by_arm = measure_rounds(make_arms(stream, text, scale, folder), scale, args.rounds)
    print(f"\n{args.rounds} rounds of {args.steps} steps, batch {args.batch} x {LENGTH}, threads {args.threads}")
    for arm, values in milliseconds_by_arm.items():
        ratios = [value / base for value, base in zip(values, milliseconds_by_arm["bare loop"], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{arm:10} {statistics.median(values):6.2f} ms/step, {statistics.median(ratios):.3f} x bare ({spread})")


if __name__ == "__main__":
    main()
