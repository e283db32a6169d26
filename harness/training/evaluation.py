"""Evaluation on the whole validation set, which leaves the generators and, at a probe, the weights as they were."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from harness.core.distributed import ProcessGroup
from harness.core.seeding import preserve_rng_state
from harness.core.sharding import has_sharded_weights
from harness.core.state import TrainState, eval_mode
from harness.core.task import Mean, Metric, Task


def evaluate(task: Task, processes: ProcessGroup, autocast: torch.dtype | None = None) -> dict[str, Metric]:
    """Return the task's metrics over its whole validation set; random generators are left unchanged."""
    return task.compute_metrics(score_validation_set(task, processes, autocast))


def score_validation_set(
    task: Task, processes: ProcessGroup, autocast: torch.dtype | None = None, *, keep_examples: bool = False
) -> dict[str, Mean]:
    """Return the sums behind `evaluate`. Processes share the batches without padding, so each is scored once.

    With `keep_examples`, the loss has the parts of its examples, in the order of the batches.
    """
    means: dict[str, Mean] = {}
    with torch.no_grad(), eval_mode(task.model), preserve_rng_state(), use_autocast(processes, autocast):
        for number, batch, is_own in _share_batches(task, processes):
            scored = task.score_batch(batch)
            if not is_own:
                continue
            kept = ("loss",) if keep_examples else ()
            numbered = {name: _number_examples(mean, number, name in kept) for name, mean in scored.items()}
            means = _add_means(means, numbered)
    means = functools.reduce(_add_means, processes.all_gather(means))
    return {name: replace(mean, examples=tuple(sorted(mean.examples, key=lambda one: one.batch)))
            for name, mean in means.items()}  # fmt: skip


def _share_batches(task: Task, processes: ProcessGroup) -> Iterator[tuple[int, Any, bool]]:
    """Yield the number of each batch that this process runs, the batch, and whether its score counts.

    All processes take part in each forward pass of a sharded model. Since batches of different kinds may need different
    numbers of passes, each process runs every batch then, and the scores are those of rank 0.
    """
    numbered = enumerate(task.validation_batches())
    if has_sharded_weights(task.model):
        yield from ((number, batch, processes.is_main) for number, batch in numbered)
    else:
        yield from ((number, batch, True) for number, batch in processes.shard(numbered))


def _number_examples(mean: Mean, batch: int, is_kept: bool) -> Mean:
    """Return a mean whose examples belong to the batch with this number, or one without examples."""
    if not mean.examples:
        return mean
    return replace(mean, examples=tuple(one._replace(batch=batch) for one in mean.examples) if is_kept else ())


@contextmanager
def preserve_weights(state: TrainState) -> Iterator[None]:
    """Restore the weights that are trained on exit: schedule-free optimizers round them when they switch modes."""
    has_modes = any(hasattr(part, "eval") for part in state.optimizer.parts)
    kept = [parameter.detach().clone() for parameter in state.optimizer.parameters()] if has_modes else []
    yield
    with torch.no_grad():
        for parameter, weights in zip(state.optimizer.parameters(), kept, strict=False):
            parameter.copy_(weights)


def use_autocast(processes: ProcessGroup, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    return torch.autocast(processes.device.type, dtype) if dtype else nullcontext()


def _add_means(left: dict[str, Mean], right: dict[str, Mean]) -> dict[str, Mean]:
    return left | {name: left[name] + mean if name in left else mean for name, mean in right.items()}
