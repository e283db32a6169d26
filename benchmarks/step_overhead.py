"""What a step costs beyond its maths: our `train` with the default observers against a bare PyTorch loop and against
transformers.Trainer with MLflow, in turn, in one process.

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

VOCABULARY, LENGTH, WIDTH, LAYERS, HEADS = 512, 64, 96, 3, 4
PEAK_LR, WARMUP, CLIP, DECAY = 1e-3, 0.05, 1.0, 0.01


def model() -> GPT:
    torch.manual_seed(0)
    return GPT(vocab_size=VOCABULARY, positions=LENGTH, layers=LAYERS, width=WIDTH, heads=HEADS, dropout=0.0)


def lr_at(step: int, steps: int) -> float:
    warmup = round(WARMUP * steps)
    if step < warmup:
        return PEAK_LR * (step + 1) / warmup
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def bare(stream: torch.Tensor, batch: int, steps: int) -> list[float]:
    """Instants of the steps' ends."""
    network = model()
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    vectors = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, weight_decay=DECAY, fused=True)  # as Trainer and ours do
    windows = (len(stream) - 1) // LENGTH
    instants = [time.perf_counter()]
    for step in range(steps):
        starts = torch.randint(windows, (batch,)) * LENGTH
        rows = starts[:, None] + torch.arange(LENGTH + 1)
        tokens = stream[rows]
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, steps)
        optimizer.zero_grad()
        logits = network(tokens[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        loss.item()
        instants.append(time.perf_counter())
    return instants


def ours(text: Path, batch: int, steps: int, folder: Path) -> list[float]:
    cfg = compose_config(
        [
            "experiment=smoke", "data=text", f"data.source.path={text}", "tokenizer=bpe",
            f"tokenizer.vocab_size={VOCABULARY}", f"data.sequence_length={LENGTH}", f"model.positions={LENGTH}",
            f"model.width={WIDTH}", f"model.layers={LAYERS}", f"model.heads={HEADS}", "model.dropout=0.0",
            f"optimizer.lr={PEAK_LR}", f"optimizer.weight_decay={DECAY}", f"schedule.warmup_ratio={WARMUP}",
            f"loop.max_steps={steps}", "loop.evals=1", "loop.log_every=10", f"batch.batch_size={batch}",
            f"cache_dir={folder}/cache", f"output_dir={folder}/outputs", f"tracking.uri=sqlite:///{folder}/mlflow.db",
        ]
    )  # fmt: skip
    settings = validate_config(cfg)
    world = ProcessGroup(torch.device("cpu"))
    parts = build_parts(cfg, settings, world, build_task(cfg, settings, world))
    observers = build_observers(cfg)
    run_folder = Path(tempfile.mkdtemp(dir=folder))
    instants: list[float] = []

    def emit(event: Event) -> None:
        for observer in observers:
            observer(event)
        if isinstance(event, StepEnd):
            instants.append(time.perf_counter())

    dataset = {"name": "", "digest": ""}
    emit(RunStart("bench", run_folder, steps, cfg.loop.log_every, {}, parts.effective, {}, {}, dataset))
    Trainer(parts.task, parts.state, parts.plan, world, policies=parts.policies, emit=emit).train()
    emit(RunEnd("completed", "", steps, 0, 0.0, 0.0, 0))
    for observer in observers:
        observer.close()
    return instants


def trainer(stream: torch.Tensor, batch: int, steps: int, folder: Path) -> list[float]:
    import transformers

    instants: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            instants.append(time.perf_counter())

    class Labelled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gpt = model()

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
        output_dir=str(folder / "trainer"), max_steps=steps, per_device_train_batch_size=batch, learning_rate=PEAK_LR,
        weight_decay=DECAY, max_grad_norm=CLIP, lr_scheduler_type="cosine", warmup_steps=round(WARMUP * steps),
        logging_steps=10, report_to=["mlflow"], save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    transformers.Trainer(Labelled(), arguments, train_dataset=data, callbacks=[Clock()]).train()
    import mlflow

    mlflow.end_run()
    return instants


def per_step(instants: list[float], skipped: int) -> float:
    """Mean milliseconds a step, the first `skipped` left out."""
    return 1000 * (instants[-1] - instants[skipped]) / (len(instants) - 1 - skipped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    stream = torch.randint(VOCABULARY, (200_000,), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        generator = random.Random(0)
        words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(2000)]
        text.write_text(" ".join(generator.choices(words, k=60_000)))
        arms: dict[str, Callable[[], list[float]]] = {
            "bare loop": lambda: bare(stream, chosen.batch, chosen.steps),
            "ours": lambda: ours(text, chosen.batch, chosen.steps, folder),
            "Trainer": lambda: trainer(stream, chosen.batch, chosen.steps, folder),
        }
        times: dict[str, list[float]] = {arm: [] for arm in arms}
        for round_number in range(chosen.rounds + 1):
            for arm, run in arms.items():
                milliseconds = per_step(run(), chosen.steps // 10)
                if round_number:  # the first round warms up: migrations, caches, imports
                    times[arm].append(milliseconds)
    print(
        f"\n{chosen.rounds} rounds of {chosen.steps} steps, batch {chosen.batch} x {LENGTH}, threads {chosen.threads}"
    )
    for arm, values in times.items():
        ratios = [value / base for value, base in zip(values, times["bare loop"], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{arm:10} {statistics.median(values):6.2f} ms/step, {statistics.median(ratios):.3f} x bare ({spread})")


if __name__ == "__main__":
    main()
