"""The faults of two of the original trainings, as components of a configuration: see docs/systems."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from harness.core.task import Loss, Mean
from harness.data.tokens import IGNORE_INDEX, TokenBatch
from harness.tasks.causal_lm import CausalLM, build_causal_lm_task
from harness.training.schedules import Cosine

DOUBLE_SHIFT = ["task._target_=benchmarks.planted_faults.build_double_shift_task"]
TRUNCATED_WARMUP = ["schedule._target_=benchmarks.planted_faults.TruncatedWarmup", "schedule.warmup_ratio=0.1"]
TRUST = "benchmarks.planted_faults.build_double_shift_task,benchmarks.planted_faults.TruncatedWarmup"
"""Value of HARNESS_TRUST with which a configuration may name them."""


@dataclass(frozen=True, kw_only=True)
class TruncatedWarmup(Cosine):
    """A cosine whose share of warm-up is made an integer before it is multiplied by the length: int(0.1) is 0."""

    def count_warmup_steps(self, total_steps: int) -> int:
        return int(self.warmup_ratio or 0) * total_steps


class DoubleShift(CausalLM):
    """Next-token prediction whose targets, which are the next tokens already, are shifted once more."""

    def compute_loss(self, batch: TokenBatch) -> Loss:
        return super().compute_loss(shift_targets(batch))

    def score_tokens(self, batch: TokenBatch) -> dict[str, Mean]:
        return super().score_tokens(shift_targets(batch))


def build_double_shift_task(**parts: Any) -> DoubleShift:
    task = build_causal_lm_task(**parts)
    return DoubleShift(task.model, task.data, pairs=task.pairs)


def shift_targets(batch: TokenBatch) -> TokenBatch:
    """Return the batch with the target of each position moved to the one before it."""
    targets = torch.full_like(batch.targets, IGNORE_INDEX)
    targets[:, :-1] = batch.targets[:, 1:]
    return replace(batch, targets=targets, scored_per_row=(targets != IGNORE_INDEX).sum(1).numpy())
