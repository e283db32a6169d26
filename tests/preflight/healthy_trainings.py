"""A healthy training with everything that the checks can use; tests break one part of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.core.task import Loss
from harness.data.tokens import IGNORE_INDEX
from harness.models.gpt import GPT
from harness.preflight import EvalResult, RequestedSettings, TrainingData, TrainingSetup

VOCAB_SIZE, BATCH_SIZE, STEPS = 40, 8, 40
PEAK_LR, WARMUP_STEPS = 5e-3, 4
PAD_ID = 0


@cache
def make_documents(count: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return documents of 10 to 24 tokens. 70% of the tokens are one of two successors of the token before."""
    rng, successor_rng = np.random.default_rng(seed), np.random.default_rng(0)
    successors = np.stack([successor_rng.permutation(np.arange(1, VOCAB_SIZE)) for _ in range(2)])
    frequencies = 1 / np.arange(1, VOCAB_SIZE)
    documents = []
    for length in rng.integers(10, 25, count):
        tokens = [int(rng.integers(1, VOCAB_SIZE))]
        while len(tokens) < length:
            kind = rng.choice(3, p=[0.5, 0.2, 0.3])
            frequent = 1 + rng.choice(VOCAB_SIZE - 1, p=frequencies / frequencies.sum())
            tokens.append(int(frequent if kind == 2 else successors[kind, tokens[-1] - 1]))
        documents.append(tuple(tokens))
    return tuple(documents)


def collate(rows: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    """Return a batch as in transformers: the labels are the inputs, and the loss shifts them."""
    width = max(map(len, rows))
    inputs = torch.tensor([row + (PAD_ID,) * (width - len(row)) for row in rows])
    is_real = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    return {"input_ids": inputs, "labels": inputs.where(is_real, IGNORE_INDEX), "attention_mask": is_real.long()}


def next_token_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Loss:
    logits = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    nats = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    return Loss(nats, int((labels != IGNORE_INDEX).sum()))


class Training:
    """A small pretrained GPT, trained on with AdamW and a warm-up, and evaluated on held-out text.

    Tests replace attributes before they call `make_setup()`; `overrides` are further fields of the setup."""

    def __init__(self) -> None:
        self.train, self.val = list(make_documents(160, seed=1)), list(make_documents(30, seed=2))
        self.collate, self.loss_fn = collate, next_token_loss
        self.model = make_model()
        self.model.load_state_dict(pretrained_weights())
        self.set_optimizer(self.model.parameters())
        self.overrides: dict[str, Any] = {}

    def set_optimizer(self, parameters: Any) -> None:
        self.optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, weight_decay=0.01)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.lr_multiplier)

    @staticmethod
    def lr_multiplier(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / STEPS)

    def make_batches(self) -> list[Any]:
        return [self.collate(self.train[start : start + BATCH_SIZE]) for start in range(0, 4 * BATCH_SIZE, BATCH_SIZE)]

    def compute_loss(self, batch: Any) -> Tensor:
        loss = self.loss_fn(self.model, batch)
        return loss.sum / loss.count if isinstance(loss, Loss) else loss

    def step(self, batch: Any) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        self.compute_loss(batch).backward()
        self.optimizer.step()
        self.scheduler.step()

    @torch.no_grad()
    def evaluate(self, batch_size: int) -> EvalResult:
        self.model.eval()
        rows = [self.val[start : start + batch_size] for start in range(0, len(self.val), batch_size)]
        losses = [self.loss_fn(self.model, self.collate(part)) for part in rows]
        count = sum(loss.count for loss in losses)
        return EvalResult(sum(loss.sum.item() for loss in losses) / count, count, "nats/token")

    def save(self, folder: Path) -> None:
        torch.save(self.model.state_dict(), folder / "model.pt")

    def load(self, folder: Path) -> nn.Module:
        model = make_model()
        model.load_state_dict(torch.load(folder / "model.pt"))
        return model

    def make_data(self) -> TrainingData:
        return TrainingData(
            train=self.train,
            val=self.val,
            documents=[" ".join(f"w{token}" for token in row) for row in self.train],
            token_stream=np.concatenate([np.array(row) for row in self.train]),
            tokenizer_saw_validation=False,
        )

    def make_setup(self) -> TrainingSetup:
        targets = [token for row in self.val for token in row[1:]]
        shares = np.array(list(Counter(targets).values())) / len(targets)
        fields: dict[str, Any] = {
            "is_pretrained": True,
            "unigram_entropy": float(-(shares * np.log(shares)).sum()),
            "requested": RequestedSettings(
                lr=PEAK_LR,
                warmup_steps=WARMUP_STEPS,
                total_steps=STEPS,
                batch_size=BATCH_SIZE,
                evals=4,
                lr_multiplier=Training.lr_multiplier,
            ),
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "train_step": self.step,
            "batch_size": BATCH_SIZE,
            "evaluate": self.evaluate,
            "eval_count": len(targets),
            "save": self.save,
            "load": self.load,
            "data": self.make_data(),
        }
        return TrainingSetup(self.model, self.make_batches(), self.loss_fn, **fields | self.overrides)


def make_model() -> GPT:
    torch.manual_seed(0)
    return GPT(vocab_size=VOCAB_SIZE, positions=32, layers=2, width=32, heads=2, dropout=0.1)


@cache
def pretrained_weights() -> Mapping[str, Tensor]:
    """Return the weights after 120 steps of training."""
    model, rows = make_model(), make_documents(400, seed=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(120):
        optimizer.zero_grad()
        loss = next_token_loss(model, collate(rows[32 * step % 384 :][:32]))
        (loss.sum / loss.count).backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
