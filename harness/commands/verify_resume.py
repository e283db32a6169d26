"""plateau verify-resume OVERRIDES: compare 2N steps at once with N steps, a checkpoint, and N more steps."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.commands.arguments import CommandParser, add_overrides, parse_overrides
from harness.config.compose import compose_config, contains_key
from harness.config.overrides import read_override_key
from harness.config.user_paths import make_overrides_absolute, make_paths_absolute
from harness.core.checkpoint_names import checkpoint_name
from harness.core.errors import ConfigError
from harness.core.events import Event, StepEnd
from harness.core.terminal import print_notes
from harness.run.notices import describe_choices
from harness.run.result import RunResult
from harness.run.resumed_settings import count_from_checkpoint
from harness.run.runner import run
from harness.training.checkpoint import read_checkpoint
from harness.training.policies import Decision, Stop


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau verify-resume", description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="steps before and after the checkpoint (default: 10)"
    )
    add_overrides(parser)
    args = parse_overrides(parser, arguments)
    if args.steps < 1:
        raise ConfigError(f"--steps: {args.steps} must be at least 1")
    print_notes(describe_choices(compose_config(args.overrides), args.overrides))
    with tempfile.TemporaryDirectory() as folder:
        differences = compare_resumed_run(args.overrides, args.steps, Path(folder))
    for part, (difference, count) in differences.items():
        print(f"{part:<12}{count:>14,} values   largest difference {difference:g}")
    largest = max(difference for difference, _ in differences.values())
    lengths = f"{2 * args.steps} steps at once vs. {args.steps} steps, resumed for {args.steps} more"
    print(f"{lengths}: largest difference {largest:g}")
    return int(largest > 0)


def compare_resumed_run(overrides: Sequence[str], steps: int, folder: Path) -> dict[str, tuple[float, int]]:
    """Return the largest difference and the number of values compared, for each part of the last checkpoint."""
    length = ["loop.epochs=null", "loop.max_tokens=null", f"loop.max_steps={2 * steps}"]
    often = ["loop.evals=null", f"loop.eval_every={steps + 1}", "loop.patience=null", "observers=metrics_only"]
    overrides = count_from_checkpoint(overrides)
    overrides = make_overrides_absolute(overrides, *make_paths_absolute(compose_config(overrides)))
    common = [*overrides, *length, *often, f"output_dir={folder}", "name=verify_resume"]
    uninterrupted = _run_to_step(common, folder / "uninterrupted")
    first = _run_to_step(common, folder / "first", stop_after=steps)
    resume = ["start=resume", f"start.run={first.folder}", "start.checkpoint=last", "start.restart_schedule=false"]
    others = [override for override in common if not contains_key("start", read_override_key(override))]
    second = _run_to_step([*others, *resume], folder / "second")
    expected, actual = (read_checkpoint_parts(result.folder, result.step) for result in (uninterrupted, second))
    return {part: max_difference(expected[part], actual[part]) for part in expected}


def _run_to_step(overrides: list[str], folder: Path, stop_after: int | None = None) -> RunResult:
    """Run to the end, or stop after `stop_after` steps."""
    n_steps = 0

    def policy(event: Event) -> Decision:
        nonlocal n_steps
        n_steps += isinstance(event, StepEnd)
        return Stop("interrupted", "halfway") if n_steps == stop_after else None

    result = run(compose_config(overrides), [policy], folder=folder)
    if result.status != ("completed" if stop_after is None else "interrupted"):
        raise ConfigError(f"the run did not complete: {result.status}: {result.reason}")
    print(f"{folder.name}: step {result.step}", file=sys.stderr)
    return result


def read_checkpoint_parts(folder: Path, step: int) -> dict[str, Any]:
    """Return the contents of the checkpoint of `step` in a run's folder: model, optimizer, schedule, and so on."""
    checkpoint = folder / "checkpoints" / checkpoint_name(step)
    return read_checkpoint(checkpoint)


def max_difference(one: Any, other: Any) -> tuple[float, int]:
    """Return the largest difference between two nested structures, and the number of values compared.

    It is infinite if the structures differ.
    """
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
    """Return the largest difference; NaN equals NaN, and differs from a number by infinity."""
    a, b = ((torch.view_as_real(t) if t.is_complex() else t).double().numpy() for t in (one, other))
    with np.errstate(invalid="ignore"):
        gaps = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nan_to_num(gaps, nan=np.inf).max(initial=0.0))
