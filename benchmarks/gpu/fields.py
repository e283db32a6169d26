"""Speed and error of a Fourier neural operator on Darcy flow, against a bare loop."""

from collections.abc import Iterator

import torch

from benchmarks.gpu.harness_run import train
from benchmarks.gpu.setup import Row, Setup, StepClock
from harness.config.compose import compose_config
from harness.config.validation import validate_config
from harness.run.build import build_task
from harness.run.runner import run
from harness.tasks.operator import OperatorTask
from harness.training.operator_losses import relative_h1

TOY = ("data.train=8", "data.held_out=4", "model.width=8", "model.modes=4", "loop.epochs=1", "batch.batch_size=4")


def measure_fno(setup: Setup) -> Iterator[Row]:
    """Time the steps of our loop and of a bare one on the same data, then run the whole experiment."""
    n_steps, n_skipped = (4, 2) if setup.is_toy else (200, 50)
    overrides = [
        "experiment=operator", f"device={setup.device.type}", "observers=metrics_only",
        f"output_dir={setup.folder}/outputs", f"cache_dir={setup.folder}/cache", *(TOY if setup.is_toy else ()),
    ]  # fmt: skip
    cfg = compose_config(overrides)
    settings = validate_config(cfg)
    batch = settings.batch.batch_size

    def make_task() -> OperatorTask:
        return build_task(cfg, settings, setup.processes)

    bare = run_bare_loop(make_task(), StepClock(setup.device, n_steps, n_skipped), batch)
    chosen = [f"batch.batch_size={batch}", "optimizer.fused=null", "loop.grad_clip=null"]
    ours = train(setup, make_task, chosen, n_steps, n_skipped).clock
    for arm, clock in (("bare loop", bare), ("ours", ours)):
        seconds = clock.seconds_per_step
        ratio = bare.seconds_per_step / seconds
        yield {"arm": arm, "samples/s": batch / seconds, "ms/step": 1000 * seconds, "x bare loop": ratio}
    result = run(cfg)
    if result.status != "completed":
        raise RuntimeError(f"run {result.status}: {result.reason}")
    yield {
        "arm": "experiment=operator", "relative L2, best": result.best_val_loss, "steps": float(result.step),
        "seconds": result.seconds,
    }  # fmt: skip


def run_bare_loop(task: OperatorTask, clock: StepClock, batch: int) -> StepClock:
    """Train with AdamW on the relative H1 error of normalized fields, reading the loss of each step."""
    model = task.model.to(clock.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for step in range(clock.n_steps):
        fields = task.get_batch(step * batch, batch).to(clock.device)
        optimizer.zero_grad()
        predicted, true = model.normalize_targets(model(fields.x)), model.normalize_targets(fields.y)
        loss = relative_h1(predicted, true).mean()
        loss.backward()
        optimizer.step()
        loss.item()
        clock.tick()
    return clock
