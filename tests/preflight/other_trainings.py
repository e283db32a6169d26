"""Healthy subjects of other kinds: a masked model, an operator between fields, models of transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.core.task import Loss
from harness.models.ltg_bert import LTGBert
from harness.preflight import TrainingSetup
from harness.preflight.training_setup import IGNORED
from harness.training.operator_losses import relative_l2
from tests.preflight.healthy_trainings import PAD, VOCABULARY, collate, make_documents

MASK = VOCABULARY - 1


def masked_batch(rows: Sequence[tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """A fifth of the tokens are to be predicted, of which nine in ten are hidden."""
    chance, batch = torch.Generator().manual_seed(seed), collate(rows)
    shape, true = batch["input_ids"].shape, batch["input_ids"]
    is_chosen = (torch.rand(shape, generator=chance) < 0.2) & batch["attention_mask"].bool()
    is_hidden = is_chosen & (torch.rand(shape, generator=chance) < 0.9)
    return batch | {"input_ids": true.where(~is_hidden, MASK), "labels": true.where(is_chosen, IGNORED)}


def make_masked_setup() -> TrainingSetup:
    torch.manual_seed(0)
    model = LTGBert(vocab_size=VOCABULARY, width=32, layers=2, heads=2, hidden=64, positions=32)
    rows = make_documents(32, seed=1)
    batches = [masked_batch(rows[at : at + 8], seed=at) for at in range(0, 32, 8)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return TrainingSetup(model, batches, masked_lm_loss, optimizer=optimizer)


def masked_lm_loss(model: nn.Module, batch: dict[str, Tensor]) -> Loss:
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    nats = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum")
    return Loss(nats, int((batch["labels"] != IGNORED).sum()))


class SpectralModel(nn.Module):
    """A convolution over the whole field, in frequencies: its weight is complex."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.lift, self.project = nn.Linear(1, width), nn.Linear(width, 1)
        self.weight = nn.Parameter(torch.randn(width, width, modes, dtype=torch.cfloat) / width)
        self.modes = modes

    def forward(self, x: Tensor) -> Tensor:
        """[samples, points] of the same."""
        h = self.lift(x[..., None]).mT
        frequencies = torch.einsum("bim,iom->bom", torch.fft.rfft(h)[..., : self.modes], self.weight)
        return self.project(F.gelu(torch.fft.irfft(frequencies, n=x.shape[-1])).mT)[..., 0]


def make_fields(count: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 32, generator=torch.Generator().manual_seed(0)).cumsum(1)
    return x - x.mean(1, keepdim=True), x.roll(4, 1).tanh()


def relative_field_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return relative_l2(model(x), y).mean()


def make_operator_setup() -> TrainingSetup:
    torch.manual_seed(0)
    model, (x, y) = SpectralModel(16, 8), make_fields(32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    return TrainingSetup(model, batches, relative_field_loss, zero_predictor=1.0, optimizer=optimizer)


def make_transformers_setup(kind: str) -> TrainingSetup:
    """As little as a stranger gives; `kind` is causal or masked."""
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    rows, made = make_documents(16, seed=1), {"vocab_size": VOCABULARY, "bos_token_id": PAD, "eos_token_id": PAD}
    if kind == "causal":
        model: Any = GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=2, **made))
        batches = [collate(rows[:8]), collate(rows[8:])]
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        model = BertForMaskedLM(BertConfig(max_position_embeddings=32, **sizes, **made))
        batches = [masked_batch(rows[:8], seed=0), masked_batch(rows[8:], seed=1)]
    return TrainingSetup(model, batches, lambda model, batch: model(**batch).loss)
