"""`python -m tests.training.out_of_memory_process FILE`, once a process: only the last rank's memory is short, and each writes what it saw to
FILE.RANK."""

import json
import sys
from pathlib import Path

import torch

from harness.core.distributed import ProcessGroup, join_process_group, leave_process_group
from harness.core.events import Event, OutOfMemory, StepEnd
from harness.training import policies
from harness.training.loop import train
from tests.toy_task import ToyTask, toy_plan, toy_state


def train_with_limited_memory(world: ProcessGroup) -> dict[str, list]:
    """The losses, and the sizes of micro-batches that did not fit."""

    class Cramped(ToyTask):
        def compute_loss(self, batch):
            if world.rank == 1 and len(batch) > 2:
                raise torch.OutOfMemoryError("only two fit")
            return super().compute_loss(batch)

    task, events = Cramped(), list[Event]()
    plan = toy_plan(micro_batch_size=16 // world.size)
    train(task, toy_state(task), plan, world, policies=[policies.shrink_when_out_of_memory], emit=events.append)
    return {
        "losses": [event.loss for event in events if isinstance(event, StepEnd)],
        "sizes": [event.micro_batch_size for event in events if isinstance(event, OutOfMemory)],
    }


if __name__ == "__main__":
    world = join_process_group("cpu")
    Path(f"{sys.argv[1]}.{world.rank}").write_text(json.dumps(train_with_limited_memory(world)))
    leave_process_group()
