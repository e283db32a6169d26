"""Trainings in which nothing is wrong, with every part that a check may ask for; a test spoils one of them."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.core.task import Loss
from harness.models.gpt import GPT
from harness.preflight import EvalResult, RequestedSettings, TrainingData, TrainingSetup
from harness.preflight.training_setup import IGNORED

VOCABULARY, ROWS, STEPS = 40, 8, 40
PEAK, WARMUP = 5e-3, 4
PAD = 0


@cache
def make_documents(count: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Of 10 to 24 tokens: what follows a token is one of two most of the time, and else a common one."""
    chance, chain = np.random.default_rng(seed), np.random.default_rng(0)
    follows = np.stack([chain.permutation(np.arange(1, VOCABULARY)) for _ in range(2)])
    common = 1 / np.arange(1, VOCABULARY)
    made = []
    for length in chance.integers(10, 25, count):
        tokens = [int(chance.integers(1, VOCABULARY))]
        while len(tokens) < length:
            kind = chance.choice(3, p=[0.5, 0.2, 0.3])
            free = 1 + chance.choice(VOCABULARY - 1, p=common / common.sum())
            tokens.append(int(free if kind == 2 else follows[kind, tokens[-1] - 1]))
        made.append(tuple(tokens))
    return tuple(made)


def collate(rows: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    """As transformers takes them: the labels are the inputs, and the loss moves them on."""
    width = max(map(len, rows))
    inputs = torch.tensor([row + (PAD,) * (width - len(row)) for row in rows])
    is_real = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    return {"input_ids": inputs, "labels": inputs.where(is_real, IGNORED), "attention_mask": is_real.long()}


def next_token_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Loss:
    logits = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    nats = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return Loss(nats, int((labels != IGNORED).sum()))


class Training:
    """A small GPT that has learned its text for a while, goes on with AdamW and a warm-up, and is judged on text apart.

    Any attribute may be set to something worse before `subject()` is asked."""

    def __init__(self) -> None:
        self.train, self.val = list(make_documents(160, seed=1)), list(make_documents(30, seed=2))
        self.collate, self.loss_fn = collate, next_token_loss
        self.model = make_model()
        self.model.load_state_dict(pretrained_weights())
        self.set_optimizer(self.model.parameters())
        self.more: dict[str, Any] = {}
        """Further fields of the subject."""

    def set_optimizer(self, parameters: Any) -> None:
        self.optimizer = torch.optim.AdamW(parameters, lr=PEAK, weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.multiplier)

    @staticmethod
    def multiplier(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP) * (1 - step / STEPS)

    def batches(self) -> list[Any]:
        return [self.collate(self.train[start : start + ROWS]) for start in range(0, 4 * ROWS, ROWS)]

    def loss(self, batch: Any) -> Tensor:
        loss = self.loss_fn(self.model, batch)
        return loss.sum / loss.count if isinstance(loss, Loss) else loss

    def step(self, batch: Any) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        self.loss(batch).backward()
        self.optimizer.step()
        self.schedule.step()

    @torch.no_grad()
    def evaluate(self, size: int) -> EvalResult:
        self.model.eval()
        parts = [
            self.loss_fn(self.model, self.collate(self.val[at : at + size])) for at in range(0, len(self.val), size)
        ]
        count = sum(part.count for part in parts)
        return EvalResult(sum(part.sum.item() for part in parts) / count, count, "nats/token")

    def save(self, folder: Path) -> None:
        torch.save(self.model.state_dict(), folder / "model.pt")

    def load(self, folder: Path) -> nn.Module:
        model = make_model()
        model.load_state_dict(torch.load(folder / "model.pt"))
        return model

    def data(self) -> TrainingData:
        texts = [" ".join(f"w{token}" for token in row) for row in self.train]
        examples: list[Sequence[Hashable]] = [self.train, self.val]
        return TrainingData(*examples, texts, np.concatenate([np.array(row) for row in self.train]), None, False)

    def make_setup(self) -> TrainingSetup:
        targets = [token for row in self.val for token in row[1:]]
        shares = np.array(list(Counter(targets).values())) / len(targets)
        given = {
            "is_pretrained": True,
            "unigram_entropy": float(-(shares * np.log(shares)).sum()),
            "asked": RequestedSettings(
                lr=PEAK,
                warmup_steps=WARMUP,
                total_steps=STEPS,
                batch_size=ROWS,
                evals=4,
                multiplier=Training.multiplier,
            ),
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "step": self.step,
            "batch_size": ROWS,
            "evaluate": self.evaluate,
            "to_score": len(targets),
            "save": self.save,
            "load": self.load,
            "data": self.data(),
        }
        return TrainingSetup(self.model, self.batches(), self.loss_fn, **given | self.more)


def make_model() -> GPT:
    torch.manual_seed(0)
    return GPT(vocab_size=VOCABULARY, positions=32, layers=2, width=32, heads=2, dropout=0.1)


@cache
def pretrained_weights() -> Mapping[str, Tensor]:
    """The weights after a few epochs."""
    model, rows = make_model(), make_documents(400, seed=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(120):
        optimizer.zero_grad()
        loss = next_token_loss(model, collate(rows[32 * step % 384 :][:32]))
        (loss.sum / loss.count).backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
