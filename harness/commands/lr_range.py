"""python -m harness lr-range experiment=headlines: the loss while the LR rises, and the band that is worth a sweep."""

import argparse
import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from harness.config.compose import compose_config, flatten_config, without_sweep_keys
from harness.config.validation import check_writable
from harness.core.distributed import ProcessGroup
from harness.core.errors import ConfigError
from harness.core.events import OutOfMemory
from harness.core.lr_keys import is_lr_key
from harness.core.state import Progress
from harness.diagnosis.lr_band import (
    MIN_STEPS,
    RANGE_TEST_FILE,
    RANGE_TEST_FOLDER,
    LRBand,
    compute_lr_band,
    range_test_key,
    smooth_losses,
)
from harness.plotting import BLUE, GREEN, ORANGE, make_axes, save_figure
from harness.record import metrics_file
from harness.run.build import RunParts
from harness.run.reproduce import name_followup_study
from harness.run.runner import BaseRunFailed, built_run
from harness.training.loop import Trainer
from harness.training.policies import Stop, shrink_when_out_of_memory
from harness.training.schedules import WarmupSchedule

MAX_LOSS_RATIO = 1.5
"""The test ends where the loss is so many times what it was before it."""
MIN_LOSSES = 3
"""Fewer are no curve."""
ROWS, BAR = 18, 40
"""Of the sketch in the terminal."""


@dataclass(frozen=True)
class LRRamp:
    """The LR of the first parameter group goes from `low` to `high` in `steps`; those of the others keep their ratio
    to it."""

    low: float = 1e-6
    high: float = 10.0
    steps: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ConfigError(f"--low {self.low:g} --high {self.high:g}: the LR must rise, from above 0")
        if self.steps < MIN_STEPS:
            raise ConfigError(f"--steps: {self.steps} must be at least {MIN_STEPS}")

    def lr_at(self, step: int) -> float:
        return self.low * (self.high / self.low) ** (step / (self.steps - 1))


@dataclass(frozen=True, kw_only=True)
class _RampSchedule(WarmupSchedule):
    rise: LRRamp
    first_step: int
    peak_lr: float

    def lr_multiplier(self, at: Progress) -> float:
        return self.rise.lr_at(at.step - self.first_step) / self.peak_lr


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness lr-range", description=__doc__)
    parser.add_argument("--low", type=float, default=LRRamp.low, help=f"the first LR (default: {LRRamp.low:g})")
    parser.add_argument("--high", type=float, default=LRRamp.high, help=f"the last LR (default: {LRRamp.high:g})")
    parser.add_argument(
        "--steps", type=int, default=LRRamp.steps, help=f"from one to the other (default: {LRRamp.steps})"
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for run.py, such as experiment=headlines")
    args = parser.parse_intermixed_args(arguments)
    rise, cfg = LRRamp(args.low, args.high, args.steps), without_sweep_keys(compose_config(args.overrides))
    try:
        with built_run(cfg) as (settings, parts, world):
            print(
                f"{rise.steps} steps, the LR of {_optimizer_name(parts)} rising from {rise.low:g} to {rise.high:g}",
                flush=True,
            )
            seen = describe_data_shortage(parts, rise)
            lrs, losses = run_range_test(parts, world, rise)
    except BaseRunFailed as ended:
        raise ConfigError(f"the base to start from: {ended}") from ended
    if world.is_main:
        found = compute_lr_band(lrs, losses)
        print(*format_bar_chart(lrs, losses, found), sep="\n")
        folder = _write_results(settings.output_dir, cfg, lrs, losses, found)
        print(*seen, *_suggest_sweep(found, cfg, args.overrides, name_followup_study(folder.name)), sep="\n")
        print(f"folder: {folder}")
    return int(isinstance(found, str)) if world.is_main else 0


def run_range_test(parts: RunParts, world: ProcessGroup, rise: LRRamp) -> tuple[list[float], list[float]]:
    """The LR of each update, and the loss after it of a batch apart, the same each time, so that none is harder than
    the last; up to where it explodes or is no number. The state of `parts` is used up."""
    task, state, plan = parts.task, parts.state, parts.plan
    begun, peak_lr = state.step - state.schedule_start_step, next(iter(state.optimizer.current_lrs().values()))
    state.schedule, state.lr_factor = _RampSchedule(rise=rise, first_step=begun, peak_lr=peak_lr), 1.0
    kept = task.get_batch(state.examples + rise.steps * plan.batch_size, plan.batch_size)
    state.optimizer.train()
    trainer = Trainer(task, state, plan, world)
    lrs: list[float] = []
    losses: list[float] = []
    highest = MAX_LOSS_RATIO * _evaluate_batch(parts, world, kept)
    while len(losses) < rise.steps and (not losses or losses[-1] < highest):
        state.model.train()
        batch = task.get_batch(state.examples, plan.batch_size)
        event = trainer.train_step(batch)
        if isinstance(event, OutOfMemory):
            trainer.micro_batch_size = _shrink_micro_batch(event)
            continue
        lrs.append(event.lr)
        losses.append(_evaluate_batch(parts, world, kept))
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < MIN_LOSSES:
        raise ConfigError(
            f"--low {rise.low:g}: the loss is no number or explodes at once; begin lower, or try preflight"
        )
    return lrs[: len(finite)], finite


def describe_data_shortage(parts: RunParts, rise: LRRamp) -> list[str]:
    """A sentence where the data is too little for a batch apart."""
    has, needs = parts.task.examples, (rise.steps + 1) * parts.plan.batch_size
    if parts.state.examples % has + needs <= has:
        return []
    return [f"the batch apart may be trained on too: {needs} examples of one epoch are needed, and it has {has}"]


def _shrink_micro_batch(event: OutOfMemory) -> int:
    decision = shrink_when_out_of_memory(event)
    if isinstance(decision, Stop):
        raise ConfigError(f"batch.batch_size: {decision.reason}")
    return decision.micro_batch_size


def _evaluate_batch(parts: RunParts, world: ProcessGroup, batch: Any) -> float:
    """Of a batch, without dropout and without a trace."""
    task, plan = parts.task, parts.plan
    share, total = -(-plan.batch_size // world.size), 0.0
    task.model.eval()
    autocast = torch.autocast(world.device.type, plan.autocast) if plan.autocast else nullcontext()
    with torch.no_grad(), autocast:
        for part in world.shard(task.split_batch(batch, share)):
            total += sum(task.compute_loss(one).sum.item() for one in task.split_batch(part, plan.micro_batch_size))
    return world.all_reduce([total])[0] / task.count_scored(batch)


def format_bar_chart(lrs: Sequence[float], losses: Sequence[float], found: LRBand | str) -> Iterator[str]:
    """A line for every half decade or so: the LR, the loss, a bar as long as that is high."""
    smooth = smooth_losses(losses)
    low, start = min(smooth), smooth[0]
    height = max(1e-12, 1.5 * (start - low))
    yield f"{'LR':>9}  {'loss':>9}"
    for index in range(0, len(lrs), -(-len(lrs) // ROWS)):
        share = min(1.0, (smooth[index] - low) / height)
        is_in = isinstance(found, LRBand) and found.low <= lrs[index] <= found.high
        yield f"{lrs[index]:9.1e}  {smooth[index]:9.4g}  {'█' * round(1 + share * BAR)}{'  ← sweep' * is_in}"


def _suggest_sweep(found: LRBand | str, cfg: DictConfig, overrides: Sequence[str], study: str) -> Iterator[str]:
    if isinstance(found, str):
        yield f"no band: {found}"
        return
    ranges = format_lr_ranges(found.low, found.high, cfg)
    kept = [one for one in overrides if one.partition("=")[0] not in {text.partition("=")[0] for text in ranges}]
    given = {one.partition("=")[0] for one in kept}
    own = {"sweeps": "sweeps=none", "sweep.study": f"sweep.study={study}"}
    alone = [override for key, override in own.items() if key not in given]
    yield f"{found.reason}; the best LR of a whole run is mostly near there, or below"
    yield f"sweep: {shlex.join(['python', 'run.py', '-m', *kept, *alone, *ranges])}"


def format_lr_ranges(low: float, high: float, cfg: DictConfig) -> list[str]:
    """The band as a sweep takes it: of optimizer.lr, and of every other LR of the optimizer at its ratio to that."""
    names = [name for name in cfg.optimizer if is_lr_key(f"optimizer.{name}")]
    ratios = {name: cfg.optimizer[name] / cfg.optimizer.lr for name in names}
    return [f"optimizer.{name}=tag(log,interval({low * by:.0e},{high * by:.0e}))" for name, by in ratios.items()]


def _write_results(outputs: Path, cfg: DictConfig, lrs: list[float], losses: list[float], found: LRBand | str) -> Path:
    """A folder with the numbers and the picture; diagnosis finds the band there for runs that differ in no more than
    LR, schedule, length and seed."""
    folder = (
        check_writable("output_dir", outputs / RANGE_TEST_FOLDER)
        / f"{datetime.now():%Y-%m-%d_%H-%M-%S.%f}_{cfg.name or 'run'}"
    )
    plot_range_test(folder / "lr_range.png", cfg.name or "", lrs, losses, found)
    has_band = isinstance(found, LRBand)
    metrics_file.write_json(folder / RANGE_TEST_FILE, {
        "key": range_test_key(flatten_config(OmegaConf.to_container(cfg, resolve=True))),
        "band": [found.low, found.high] if has_band else None,
        "reason": found.reason if has_band else found,
        "lrs": lrs,
        "losses": losses,
        "smoothed": smooth_losses(losses).tolist(),
    })  # fmt: skip
    return folder


def plot_range_test(path: Path, name: str, lrs: Sequence[float], losses: Sequence[float], found: LRBand | str) -> None:
    """Draw the losses against the LR, raw and smoothed, with the band."""
    smooth = smooth_losses(losses)
    axes = make_axes("Range test of the learning rate", name, "learning rate", "loss of a batch apart")
    axes.plot(lrs, losses, color=BLUE, linewidth=0.8, alpha=0.4, label="after each update")
    axes.plot(lrs, smooth, color=BLUE, linewidth=1.8, label="smoothed")
    if isinstance(found, LRBand):
        axes.axvspan(found.low, found.high, color=GREEN, alpha=0.15, label=f"sweep {found.low:.0e} to {found.high:.0e}")
        axes.axvline(found.best_lr, color=ORANGE, linewidth=1.2, linestyle="--", label="least")
    axes.set_xscale("log")
    fall = smooth[0] - min(smooth)
    axes.set_ylim(min(smooth) - 0.2 * fall, smooth[0] + max(0.5 * fall, 0.05 * abs(smooth[0])))
    axes.legend(frameon=False)
    save_figure(axes.figure, path)


def _optimizer_name(parts: RunParts) -> str:
    return parts.effective.optimizer
