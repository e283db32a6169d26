"""python -m harness verify-resume OVERRIDES: 2N steps at once against N and N more from a checkpoint, bit by bit."""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.commands.arguments import add_overrides, parse_overrides
from harness.config.compose import compose_config
from harness.core.checkpoint_names import checkpoint_name
from harness.core.errors import ConfigError
from harness.core.events import Event, StepEnd
from harness.run.runner import RunResult, run
from harness.training.checkpoint import STATE_FILE, WEIGHTS_FILE, load_weights
from harness.training.policies import Decision, Stop


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="plateau verify-resume", description=__doc__)
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="before and after the break (default: 10)")
    add_overrides(parser)
    args = parse_overrides(parser, arguments)
    if args.steps < 1:
        raise ConfigError(f"--steps: {args.steps} must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        differences = compare_resumed_run(args.overrides, args.steps, Path(folder))
    for part, (difference, count) in differences.items():
        print(f"{part:<12}{count:>14,} numbers   largest difference {difference:g}")
    largest = max(difference for difference, _ in differences.values())
    print(f"{2 * args.steps} steps at once against {args.steps} and {args.steps} more: largest difference {largest:g}")
    return int(largest > 0)


def compare_resumed_run(overrides: Sequence[str], steps: int, folder: Path) -> dict[str, tuple[float, int]]:
    """Of each part of the last checkpoint: the largest difference, and of how many numbers."""
    length = ["loop.epochs=null", "loop.max_tokens=null", f"loop.max_steps={2 * steps}"]
    often = ["loop.evals=null", f"loop.eval_every={steps + 1}", "loop.patience=null", "observers=metrics_only"]
    asked = [*overrides, *length, *often, f"output_dir={folder}", "name=verify_resume"]
    straight = _run_to_step(asked, folder / "straight")
    first = _run_to_step(asked, folder / "first", stop_after=steps)
    go_on = [*asked, "start=resume", f"start.run={first.folder}", "start.checkpoint=last", "start.restart_schedule=false"]
    second = _run_to_step(go_on, folder / "second")
    one, other = (read_checkpoint_parts(result.folder, result.step) for result in (straight, second))
    return {part: max_difference(one[part], other[part]) for part in one}


def _run_to_step(overrides: list[str], folder: Path, stop_after: int | None = None) -> RunResult:
    begun: list[int] = []

    def policy(event: Event) -> Decision:
        if not isinstance(event, StepEnd) or stop_after is None:
            return None
        begun.append(event.step)
        return Stop("interrupted", "half-way") if len(begun) == stop_after else None

    result = run(compose_config(overrides), [policy], folder=folder)
    if result.status != ("completed" if stop_after is None else "interrupted"):
        raise ConfigError(f"a run of it does not come to its end: {result.status}: {result.reason}")
    print(f"{folder.name}: step {result.step}", file=sys.stderr)
    return result


def read_checkpoint_parts(folder: Path, step: int) -> dict[str, Any]:
    """What the checkpoint of `step` holds of the run in `folder`, by part."""
    checkpoint = folder / "checkpoints" / checkpoint_name(step)
    return {"model": load_weights(checkpoint / WEIGHTS_FILE), **torch.load(checkpoint / STATE_FILE, weights_only=True)}


def max_difference(one: Any, other: Any) -> tuple[float, int]:
    """The largest difference of the numbers in two structures alike, infinite where they are not, and how many."""
    pairs = list(_compare_leaves(one, other))
    return max((difference for difference, _ in pairs), default=0.0), sum(count for _, count in pairs)


def _compare_leaves(one: Any, other: Any) -> Iterator[tuple[float, int]]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _compare_leaves(one[key], other[key])
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for pair in zip(one, other, strict=True):
            yield from _compare_leaves(*pair)
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and one.shape == other.shape:
        yield _max_gap(one, other), one.numel()
    else:
        yield 0.0 if one == other else float("inf"), 1


def _max_gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Infinite where one of two numbers is none."""
    a, b = ((torch.view_as_real(t) if t.is_complex() else t).double().numpy() for t in (one, other))
    with np.errstate(invalid="ignore"):
        gaps = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nan_to_num(gaps, nan=np.inf).max(initial=0.0))
