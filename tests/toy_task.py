"""A small task that trains: regression over sequences of unequal length, so that counts differ by batch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harness.core.distributed import ProcessGroup
from harness.core.state import TrainState
from harness.core.task import Loss, Mean, Metric
from harness.training.loop import TrainingPlan
from harness.training.optimizers import CombinedOptimizer, group_parameters
from harness.training.schedules import Constant

CPU = ProcessGroup(torch.device("cpu"))


@dataclass
class Rows:
    """Examples of 7 positions: inputs [rows, 7, 3], targets [rows, 7, 1], and a mask [rows, 7] of those that count."""

    inputs: Tensor
    targets: Tensor
    mask: Tensor

    def __getitem__(self, rows: object) -> "Rows":
        return Rows(self.inputs[rows], self.targets[rows], self.mask[rows])

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass
class ToyTask:
    """Learn y = sin(sum x) on 1 to 7 positions per example."""

    dropout: float = 0.0
    eval_batch_size: int = 16
    model: nn.Module = field(init=False)
    forwards: int = 0

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(self.dropout), nn.Linear(16, 1))
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(80, 7, 3, generator=generator)
        lengths = torch.randint(1, 8, (80, 1), generator=generator)
        rows = Rows(inputs, inputs.sum(-1, keepdim=True).sin(), torch.arange(7) < lengths)
        self.train, self.val = rows[:64], rows[64:]

    constants: Mapping[str, float] = field(default_factory=dict)

    def get_batch(self, position: int, size: int) -> Rows:
        return self.train[[row % len(self.train) for row in range(position, position + size)]]

    def split_batch(self, batch: Rows, size: int) -> list[Rows]:
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def count_scored(self, batch: Rows) -> int:
        return int(batch.mask.sum())

    count_tokens = count_scored

    def compute_loss(self, batch: Rows) -> Loss:
        self.forwards += 1
        return Loss(self._errors(batch).sum(), self.count_scored(batch))

    def validation_batches(self) -> Iterator[Rows]:
        yield from self.split_batch(self.val, self.eval_batch_size)

    def score_batch(self, batch: Rows) -> dict[str, Mean]:
        errors = self._errors(batch).double()
        return {
            "loss": Mean(errors.sum().item(), self.count_scored(batch), "squared error", errors.square().sum().item())
        }

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        return {"loss": Metric(means["loss"].value, means["loss"].unit, means["loss"].standard_error)}

    def _errors(self, batch: Rows) -> Tensor:
        errors = (self.model(batch.inputs).float() - batch.targets).square().squeeze(-1)
        return errors * batch.mask


def toy_state(task: ToyTask, lr: float = 0.05, scale: float | None = None) -> TrainState:
    """Return the initial state with AdamW and a constant LR; `scale` enables the gradient scaler."""
    scaler = torch.amp.GradScaler("cpu", enabled=scale is not None, init_scale=scale or 1.0, growth_interval=1000)
    optimizer = CombinedOptimizer(torch.optim.AdamW(group_parameters(task.model, "matrices"), lr=lr))
    return TrainState(task.model, optimizer, Constant(), scaler)


def toy_plan(total_steps: int = 20, **changes: object) -> TrainingPlan:
    """Return a plan with one evaluation, at the end, and batches of 16."""
    given = {"eval_steps": frozenset({total_steps}), "batch_size": 16, "micro_batch_size": 16, **changes}
    return TrainingPlan(total_steps=total_steps, **given)
