"""Compare the neuraloperator library's trainer and tutorial settings with ours on Darcy flow at 16 x 16.

Both run alternately in one process on the same data; errors and the cost per step are printed.

    python benchmarks/darcy.py FOLDER (of darcy_train_16.pt, darcy_test_16.pt and darcy_test_32.pt)
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import neuralop
import torch
from neuralop import H1Loss, LpLoss
from neuralop.data.datasets import DarcyDataset
from neuralop.models import FNO
from neuralop.training import AdamW
from torch.utils.data import DataLoader

from harness.config.compose import compose_config
from harness.config.validation import validate_config
from harness.core.distributed import ProcessGroup
from harness.core.events import EvalEnd, Event, StepEnd
from harness.run.build import build_parts, build_task
from harness.training.loop import Trainer

EPOCHS, BATCH = 15, 64
SAME = ["batch.batch_size=64", "optimizer.lr=1e-2", "optimizer.weight_decay=1e-4", "schedule.warmup_ratio=0",
        "loop.grad_clip=null", "loop.evals=5", "model.modes=8"]  # fmt: skip
# The tutorial's settings, except that our cosine ends with the run and theirs at epoch 30.


def run_tutorial(folder: Path, seed: int, epochs: int = EPOCHS) -> dict[str, float]:
    """Run the tutorial: 8 modes, AdamW at 1e-2 with decay 1e-4, cosine over 30 epochs, H1 loss, eval every 3 epochs."""
    torch.manual_seed(seed)
    with redirect_stdout(StringIO()):
        data = DarcyDataset(
            root_dir=folder, n_train=1000, n_tests=[50, 50], batch_size=BATCH, test_batch_sizes=[32, 32],
            train_resolution=16, test_resolutions=[16, 32], download=False,
        )  # fmt: skip
    loaders = {n: DataLoader(data.test_dbs[n], batch_size=32) for n in (16, 32)}
    model = FNO(n_modes=(8, 8), in_channels=1, out_channels=1, hidden_channels=24, projection_channel_ratio=2)
    optimizer = AdamW(model.parameters(), lr=1e-2, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    losses = {"l2": LpLoss(d=2, p=2), "h1": H1Loss(d=2)}
    trainer = neuralop.Trainer(model=model, n_epochs=epochs, data_processor=data.data_processor, eval_interval=3)
    started_at = time.perf_counter()
    trainer.train(
        DataLoader(data.train_db, batch_size=BATCH, shuffle=True), loaders, optimizer, scheduler,
        training_loss=losses["h1"], eval_losses=losses,
    )  # fmt: skip
    seconds = time.perf_counter() - started_at
    found = trainer.evaluate_all(epoch=epochs, eval_losses=losses, test_loaders=loaders, eval_modes={})
    figures = {"loss": found["16_l2"], "h1": found["16_h1"], "loss_32": found["32_l2"], "h1_32": found["32_h1"]}
    steps = epochs * -(-1000 // BATCH)
    return {name: float(value) for name, value in figures.items()} | {"seconds": seconds, "ms": 1e3 * seconds / steps}


def run_harness(folder: Path, seed: int, cache: Path, *overrides: str) -> dict[str, float]:
    """Run experiment=operator; return final errors, total seconds including evaluations, and ms per step."""
    cfg = compose_config(
        [
            "experiment=operator", "data=pde_files", f"data.train={folder}/darcy_train_16.pt", f"seed={seed}",
            f"data.validation=[{folder}/darcy_test_16.pt,{folder}/darcy_test_32.pt]", f"cache_dir={cache}", *overrides,
        ]
    )  # fmt: skip
    settings, processes, events = validate_config(cfg), ProcessGroup(torch.device("cpu")), []
    parts = build_parts(cfg, settings, processes, build_task(cfg, settings, processes))
    started_at = time.perf_counter()

    def emit(event: Event) -> None:
        events.append(event)

    Trainer(parts.task, parts.state, parts.plan, processes, policies=parts.policies, emit=emit).train()
    seconds = time.perf_counter() - started_at
    last = [event for event in events if isinstance(event, EvalEnd)][-1]
    steps = sum(isinstance(event, StepEnd) for event in events)
    figures = {name: metric.value for name, metric in last.metrics.items()}
    return figures | {"seconds": seconds, "ms": 1e3 * seconds / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="overrides of experiment=operator")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")  # the library's trainer passes unused arguments to its losses and model
    rounds: list[dict[str, dict[str, float]]] = []
    with TemporaryDirectory() as name:
        arms: dict[str, Callable[[int], dict[str, float]]] = {
            "tutorial": lambda seed: run_tutorial(chosen.folder, seed),
            "ours, its settings": lambda seed: run_harness(chosen.folder, seed, Path(name), *SAME),
            "ours": lambda seed: run_harness(chosen.folder, seed, Path(name), *chosen.overrides),
        }
        run_tutorial(chosen.folder, 0, epochs=1)  # warm up: imports and FFT plans
        for seed in range(chosen.rounds):
            rounds.append({arm: run(seed) for arm, run in arms.items()})
            print(f"seed {seed}", {arm: round(each["loss"], 4) for arm, each in rounds[-1].items()}, flush=True)
    for arm in arms:
        columns = {name: [each[arm][name] for each in rounds] for name in rounds[0][arm]}
        columns["ms/tutorial"] = [each[arm]["ms"] / each["tutorial"]["ms"] for each in rounds]
        cells = (f"{name} {statistics.median(v):.4g} ({min(v):.4g} to {max(v):.4g})" for name, v in columns.items())
        print(f"{arm:18} {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
