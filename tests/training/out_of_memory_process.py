"""`python -m tests.training.out_of_memory_process PREFIX`, once per rank: train with little memory on the last rank.

Each rank writes its losses and the micro-batch sizes that did not fit to PREFIX.RANK.
"""

import json
import sys
from pathlib import Path

import torch

from harness.core.distributed import ProcessGroup, join_process_group, leave_process_group
from harness.core.events import Event, OutOfMemory, StepEnd
from harness.core.task import Loss
from harness.training import policies
from harness.training.loop import Trainer
from tests.toy_task import Rows, ToyTask, toy_plan, toy_state


def train_with_limited_memory(processes: ProcessGroup) -> dict[str, list[float]]:
    """Return the losses and the micro-batch sizes that did not fit."""

    class LimitedMemoryTask(ToyTask):
        def compute_loss(self, batch: Rows) -> Loss:
            if processes.rank == 1 and len(batch) > 2:
                raise torch.OutOfMemoryError("batch too large")
            return super().compute_loss(batch)

    task, events = LimitedMemoryTask(), list[Event]()
    plan = toy_plan(micro_batch_size=16 // processes.size)
    shrink = [policies.shrink_when_out_of_memory]
    Trainer(task, toy_state(task), plan, processes, policies=shrink, emit=events.append).train()
    return {
        "losses": [event.loss for event in events if isinstance(event, StepEnd)],
        "sizes": [event.micro_batch_size for event in events if isinstance(event, OutOfMemory)],
    }


if __name__ == "__main__":
    processes = join_process_group("cpu")
    Path(f"{sys.argv[1]}.{processes.rank}").write_text(json.dumps(train_with_limited_memory(processes)))
    leave_process_group()
