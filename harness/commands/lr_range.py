"""plateau lr-range experiment=headlines: find the band of learning rates that is worth a sweep."""

import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from harness.commands.arguments import CommandParser, add_overrides, parse_overrides
from harness.config.compose import compose_config, flatten_config, without_sweep_keys
from harness.config.user_paths import make_overrides_absolute, make_paths_absolute
from harness.config.validation import check_writable
from harness.core.distributed import ProcessGroup
from harness.core.errors import ConfigError
from harness.core.events import OutOfMemory
from harness.core.formatting import format_duration
from harness.core.paths import run_command
from harness.core.state import Progress
from harness.core.terminal import announce, fit_record, format_labeled, paragraph_width, print_notes
from harness.diagnosis.lr_band import MIN_STEPS, LRBand, compute_lr_band, smooth_losses
from harness.diagnosis.prescription import format_lr_ranges
from harness.plotting import BLUE, GREEN, ORANGE, add_legend, make_axes, save_figure, use_log_scale
from harness.record.lr_range_file import RANGE_TEST_FOLDER, add_data_digest, write_range_test
from harness.run.build import RunParts
from harness.run.notices import describe_choices
from harness.run.reproduce import name_followup_study
from harness.run.resumed_settings import count_from_checkpoint
from harness.run.runner import built_run
from harness.training.loop import Trainer
from harness.training.policies import ShrinkMicroBatch, Stop, shrink_when_out_of_memory
from harness.training.schedules import WarmupSchedule

MAX_LOSS_RATIO = 1.5  # of the loss to the one before the test, at which it ends
MIN_LOSSES = 3  # for a curve
CHART_ROWS, MAX_CHART_WIDTH, CHART_TEXT_WIDTH = 18, 100, 33  # the text is beside the bars
TIMED_STEPS = 3  # from which the duration of the test is estimated


@dataclass(frozen=True)
class LRRamp:
    """Raise the LR of the first parameter group exponentially from `low` to `high` in `steps`.

    Other groups keep their ratio to it.
    """

    low: float = 1e-6
    high: float = 10.0
    steps: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ConfigError(f"--low {self.low:g} --high {self.high:g}: must satisfy 0 < low < high")
        if self.steps < MIN_STEPS:
            raise ConfigError(f"--steps: {self.steps} must be at least {MIN_STEPS}")

    def lr_at(self, step: int) -> float:
        return self.low * (self.high / self.low) ** (step / (self.steps - 1))


@dataclass(frozen=True, kw_only=True)
class _RampSchedule(WarmupSchedule):
    ramp: LRRamp
    first_step: int
    peak_lr: float

    def lr_multiplier(self, at: Progress) -> float:
        return self.ramp.lr_at(at.step - self.first_step) / self.peak_lr


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau lr-range", description=__doc__)
    parser.add_argument("--low", type=float, default=LRRamp.low, help=f"first LR (default: {LRRamp.low:g})")
    parser.add_argument("--high", type=float, default=LRRamp.high, help=f"last LR (default: {LRRamp.high:g})")
    parser.add_argument("--steps", type=int, default=LRRamp.steps, help=f"steps of the test (default: {LRRamp.steps})")
    add_overrides(parser)
    args = parse_overrides(parser, arguments)
    ramp = LRRamp(args.low, args.high, args.steps)
    overrides = count_from_checkpoint(args.overrides)
    cfg, changed = make_paths_absolute(without_sweep_keys(compose_config(overrides)))
    overrides = make_overrides_absolute(overrides, cfg, changed)
    with built_run(cfg) as (settings, parts, processes):
        if processes.is_main:
            print_notes(describe_choices(cfg, args.overrides))
        optimizer = parts.effective.optimizer
        print(f"raising the LR of {optimizer} from {ramp.low:g} to {ramp.high:g} in {ramp.steps} steps", flush=True)
        notes, dataset = describe_data_shortage(parts, ramp), parts.task.dataset
        lrs, losses = run_range_test(parts, processes, ramp)
    if not processes.is_main:
        return 0
    found = compute_lr_band(lrs, losses)
    params = flatten_config(OmegaConf.to_container(cfg, resolve=True))
    folder = check_writable("output_dir", settings.output_dir / RANGE_TEST_FOLDER)
    folder /= f"{datetime.now():%Y-%m-%d_%H-%M-%S.%f}_{cfg.name or 'run'}"
    plot_range_test(folder / "lr_range.png", cfg.name or "", lrs, losses, found)
    write_range_test(folder, add_data_digest(params, dataset), lrs, losses, found)
    study = name_followup_study(folder.name)
    print(*format_bar_chart(lrs, losses, found), *map(fit_record, notes), sep="\n")
    print(*_suggest_sweep(found, params, overrides, study), *format_labeled("folder", str(folder)), sep="\n")
    return int(isinstance(found, str))


def run_range_test(parts: RunParts, processes: ProcessGroup, ramp: LRRamp) -> tuple[list[float], list[float]]:
    """Train while the LR rises, and return the LRs and the loss of a held-out batch after each update.

    The batch is always the same, so that no step looks harder than the last. Stops when the loss explodes. Uses up the
    state of `parts`.
    """
    task, state, plan = parts.task, parts.state, parts.plan
    first_step, peak_lr = state.step - state.schedule_start_step, next(iter(state.optimizer.current_lrs().values()))
    state.schedule, state.lr_factor = _RampSchedule(ramp=ramp, first_step=first_step, peak_lr=peak_lr), 1.0
    held_out = task.get_batch(state.examples + ramp.steps * plan.batch_size, plan.batch_size)
    state.optimizer.train()
    trainer = Trainer(task, state, plan, processes)
    lrs: list[float] = []
    losses: list[float] = []
    started_at = time.monotonic()
    highest = MAX_LOSS_RATIO * _evaluate_batch(parts, processes, held_out)
    while len(losses) < ramp.steps and (not losses or losses[-1] < highest):
        state.model.train()
        batch = task.get_batch(state.examples, plan.batch_size)
        event = trainer.train_step(batch)
        if isinstance(event, OutOfMemory):
            match shrink_when_out_of_memory(event):
                case ShrinkMicroBatch(size):
                    trainer.micro_batch_size = size
                case Stop(reason=reason):
                    raise ConfigError(f"batch.batch_size: {reason}")
            continue
        lrs.append(event.lr)
        losses.append(_evaluate_batch(parts, processes, held_out))
        if len(losses) == TIMED_STEPS:
            step_seconds = (time.monotonic() - started_at) / TIMED_STEPS
            announce(
                f"about {format_duration(step_seconds * (ramp.steps - TIMED_STEPS))}, or less if the loss explodes"
            )
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < MIN_LOSSES:
        raise ConfigError(f"--low {ramp.low:g}: the loss explodes at once; start lower, or run preflight")
    return lrs[: len(finite)], finite


def describe_data_shortage(parts: RunParts, ramp: LRRamp) -> list[str]:
    """Return a note if the epoch has too few examples to hold out a batch."""
    available, needed = parts.task.examples, (ramp.steps + 1) * parts.plan.batch_size
    if parts.state.examples % available + needed <= available:
        return []
    return [f"the held-out batch may be trained on: the test needs {needed} examples, one epoch has {available}"]


def _evaluate_batch(parts: RunParts, processes: ProcessGroup, batch: Any) -> float:
    """Return the loss of a batch, without dropout or gradients."""
    task, plan = parts.task, parts.plan
    per_process, total = -(-plan.batch_size // processes.size), 0.0
    task.model.eval()
    autocast = torch.autocast(processes.device.type, plan.autocast) if plan.autocast else nullcontext()
    with torch.no_grad(), autocast:
        for part in processes.shard(task.split_batch(batch, per_process)):
            total += sum(task.compute_loss(one).sum.item() for one in task.split_batch(part, plan.micro_batch_size))
    return processes.all_reduce([total])[0] / task.count_scored(batch)


def format_bar_chart(lrs: Sequence[float], losses: Sequence[float], found: LRBand | str) -> Iterator[str]:
    """Yield lines with an LR, its smoothed loss, and a bar of that height."""
    smooth = smooth_losses(losses)
    low, start = min(smooth), smooth[0]
    searched = found.search_range if isinstance(found, LRBand) else (math.inf, -math.inf)
    height = max(1e-12, 1.5 * (start - low))
    width = min(MAX_CHART_WIDTH, max(1, paragraph_width() - CHART_TEXT_WIDTH))
    yield f"{'LR':>9}  {'loss':>9}"
    for index in range(0, len(lrs), -(-len(lrs) // CHART_ROWS)):
        fraction = min(1.0, (smooth[index] - low) / height)
        is_searched = searched[0] <= lrs[index] <= searched[1]
        bar = "█" * round(1 + fraction * width)
        yield f"{lrs[index]:9.1e}  {smooth[index]:9.4g}  {bar}{'  ← sweep' * is_searched}"


def _suggest_sweep(
    found: LRBand | str, params: Mapping[str, str], overrides: Sequence[str], study: str
) -> Iterator[str]:
    if isinstance(found, str):
        yield fit_record(f"no band: {found}")
        return
    ranges = format_lr_ranges(*found.search_range, params)
    searched = {override.partition("=")[0] for override in ranges}
    kept = [override for override in overrides if override.partition("=")[0] not in searched]
    given = {override.partition("=")[0] for override in kept}
    defaults = {"sweeps": "sweeps=none", "sweep.study": f"sweep.study={study}"}
    added = [override for key, override in defaults.items() if key not in given]
    yield fit_record(f"{found.reason}; the best LR of a whole run is usually near that")
    yield fit_record(f"evidence: {found.evidence}")
    yield "to sweep the band:"
    yield shlex.join([*run_command(), "-m", *kept, *added, *ranges])


def plot_range_test(path: Path, name: str, lrs: Sequence[float], losses: Sequence[float], found: LRBand | str) -> None:
    """Plot the losses against the LR, raw and smoothed, with the band."""
    smooth = smooth_losses(losses)
    axes = make_axes("Learning rate range test", name, "learning rate", "loss of a held-out batch")
    axes.plot(lrs, losses, color=BLUE, linewidth=0.8, alpha=0.4, label="after each update")
    axes.plot(lrs, smooth, color=BLUE, linewidth=1.8, label="smoothed")
    if isinstance(found, LRBand):
        low, high = found.search_range
        axes.axvspan(low, high, color=GREEN, alpha=0.15, label=f"sweep {low:.0e} to {high:.0e}")
        axes.axvline(found.best_lr, color=ORANGE, linewidth=1.2, linestyle="--", label="lowest loss")
    use_log_scale(axes, "x")
    fall = smooth[0] - min(smooth)
    axes.set_ylim(min(smooth) - 0.2 * fall, smooth[0] + max(0.5 * fall, 0.05 * abs(smooth[0])))
    add_legend(axes)
    save_figure(axes.figure, path)
