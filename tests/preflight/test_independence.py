"""Rows that affect each other by mistake fail; by design, or in another layout, they warn at most."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.preflight import TrainingSetup, preflight

ROWS, TIME, WIDTH = 16, 6, 8


def get_level(model: nn.Module, loss_fn: Callable[[nn.Module, Any], Tensor], batch: Any) -> str:
    [level] = {f.level for _, f in preflight(TrainingSetup(model, [batch], loss_fn), ["independence"])}
    return level


def squared_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def class_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class Scores(nn.Module):
    """One number, or one for each class, from what a function makes of the inputs."""

    def __init__(self, encode: Callable[[Tensor], Tensor], parts: nn.Module | None = None, outputs: int = 1) -> None:
        super().__init__()
        self.encode, self.parts, self.head = encode, parts, nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encode(x))


class ExpertChoice(nn.Module):
    """Each expert takes the tokens of the batch that suit it best."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.head = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 1)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        scores, output = self.router(tokens).softmax(-1), tokens.clone()
        for index, expert in enumerate(self.experts):
            chosen = scores[:, index].topk(len(tokens) // 4).indices
            output = output.index_add(0, chosen, expert(tokens[chosen]))
        return self.head(output).view(*x.shape[:-1], 1)


class TwoTowers(nn.Module):
    """Similarities of all pairs, as in CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.normalize(self.left(x), dim=-1) @ F.normalize(self.right(y), dim=-1).T


def pair_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(*batch) / 0.1, torch.arange(len(batch[0])))


def make_layer(batch_first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=batch_first)


def make_recurrent_setup() -> tuple[Any, ...]:
    cells = nn.LSTM(WIDTH, WIDTH)
    return Scores(lambda x: cells(x)[0], cells), squared_loss, (torch.randn(TIME, 10, WIDTH), torch.randn(TIME, 10, 1))


def make_set_setup() -> tuple[Any, ...]:
    layer = make_layer(batch_first=True)
    return Scores(lambda x: layer(x[None])[0], layer), squared_loss, (torch.randn(ROWS, WIDTH), torch.randn(ROWS, 1))


HEALTHY: dict[str, Callable[[], tuple[Any, ...]]] = {
    "time before rows": make_recurrent_setup,
    "rows of one task": make_set_setup,
    "experts choose tokens": lambda: (
        ExpertChoice(),
        squared_loss,
        (torch.randn(ROWS, 9, WIDTH), torch.randn(ROWS, 9, 1)),
    ),
    "experts choose rows": lambda: (ExpertChoice(), squared_loss, (torch.randn(ROWS, WIDTH), torch.randn(ROWS, 1))),
    "similarities of pairs": lambda: (TwoTowers(), pair_loss, (torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH))),
}


def make_unordered_setup() -> tuple[Any, ...]:
    """An encoder without batch_first, on [rows, time, features] with a class for each row."""
    layer = make_layer(batch_first=False)
    model = Scores(lambda x: layer(x).mean(1), layer, outputs=3)
    return model, class_loss, (torch.randn(ROWS, TIME, WIDTH), torch.randint(3, (ROWS,)))


def make_viewed_setup() -> tuple[Any, ...]:
    """A view that should be a transpose, from [time, rows, features] to [rows, time, features]."""
    cells = nn.GRU(WIDTH, WIDTH)
    model = Scores(lambda x: cells(x.transpose(0, 1))[0].reshape(x.shape), cells)
    return model, squared_loss, (torch.randn(ROWS, TIME, WIDTH), torch.randn(ROWS, TIME, 1))


FAULTY: dict[str, Callable[[], tuple[Any, ...]]] = {
    "no batch_first": make_unordered_setup,
    "view for transpose": make_viewed_setup,
    "mean of the batch": lambda: (
        Scores(lambda x: x - x.mean(0)),
        squared_loss,
        (torch.randn(ROWS, WIDTH), torch.randn(ROWS, 1)),
    ),
    "mean of the batch, then the largest": lambda: (
        Scores(lambda x: (x - x.mean(0)).max(1).values),
        squared_loss,
        (torch.randn(ROWS, TIME, WIDTH), torch.randn(ROWS, 1)),
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_rows_that_are_coupled_by_design_do_not_fail(name: str) -> None:
    torch.manual_seed(0)
    assert get_level(*HEALTHY[name]()) in ("warn", "skip")


@pytest.mark.parametrize("name", FAULTY)
def test_rows_that_are_coupled_by_mistake_fail(name: str) -> None:
    torch.manual_seed(0)
    assert get_level(*FAULTY[name]()) == "fail"
