"""Healthy setups of other kinds: a masked model, an operator between fields, models of transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.core.task import Loss
from harness.data.tokens import IGNORE_INDEX
from harness.models.ltg_bert import LTGBert
from harness.preflight import TrainingSetup
from harness.training.operator_losses import relative_l2
from tests.preflight.healthy_trainings import PAD_ID, VOCAB_SIZE, collate, make_documents

MASK_ID = VOCAB_SIZE - 1


def mask_tokens(rows: Sequence[tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Return a batch in which 20% of the tokens are targets and 90% of these are masked."""
    generator, batch = torch.Generator().manual_seed(seed), collate(rows)
    shape, tokens = batch["input_ids"].shape, batch["input_ids"]
    is_target = (torch.rand(shape, generator=generator) < 0.2) & batch["attention_mask"].bool()
    is_masked = is_target & (torch.rand(shape, generator=generator) < 0.9)
    return batch | {"input_ids": tokens.where(~is_masked, MASK_ID), "labels": tokens.where(is_target, IGNORE_INDEX)}


def make_ltg_bert() -> LTGBert:
    torch.manual_seed(0)
    return LTGBert(vocab_size=VOCAB_SIZE, width=32, layers=2, heads=2, hidden=64, positions=32)


def make_masked_setup() -> TrainingSetup:
    model, rows = make_ltg_bert(), make_documents(32, seed=1)
    batches = [mask_tokens(rows[start : start + 8], seed=start) for start in range(0, 32, 8)]
    return TrainingSetup(model, batches, masked_lm_loss, optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3))


def masked_lm_loss(model: nn.Module, batch: dict[str, Tensor]) -> Loss:
    logits, labels = model(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"]
    nats = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    return Loss(nats, int((labels != IGNORE_INDEX).sum()))


class SpectralModel(nn.Module):
    """A convolution over the whole field in the frequency domain, with a complex weight."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.lift, self.project = nn.Linear(1, width), nn.Linear(width, 1)
        self.weight = nn.Parameter(torch.randn(width, width, modes, dtype=torch.cfloat) / width)
        self.modes = modes

    def forward(self, x: Tensor) -> Tensor:
        """Map fields of shape [samples, points] to fields of the same shape."""
        h = self.lift(x[..., None]).mT
        frequencies = torch.einsum("bim,iom->bom", torch.fft.rfft(h)[..., : self.modes], self.weight)
        return self.project(F.gelu(torch.fft.irfft(frequencies, n=x.shape[-1])).mT)[..., 0]


def relative_field_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return relative_l2(model(x), y).mean()


def make_operator_setup() -> TrainingSetup:
    torch.manual_seed(0)
    model = SpectralModel(16, 8)
    x = torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).cumsum(1)
    x, y = x - x.mean(1, keepdim=True), x.roll(4, 1).tanh()
    batches = list(zip(x.split(16), y.split(16), strict=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return TrainingSetup(model, batches, relative_field_loss, zero_output_loss=1.0, optimizer=optimizer)


def make_transformers_setup(kind: str) -> TrainingSetup:
    """Return a minimal setup, causal or masked: model, batches and the model's own loss."""
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    rows, tokens = (
        make_documents(16, seed=1),
        {"vocab_size": VOCAB_SIZE, "bos_token_id": PAD_ID, "eos_token_id": PAD_ID},
    )
    if kind == "causal":
        model: Any = GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=2, **tokens))
        batches = [collate(rows[:8]), collate(rows[8:])]
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        model = BertForMaskedLM(BertConfig(max_position_embeddings=32, **sizes, **tokens))
        batches = [mask_tokens(rows[:8], seed=0), mask_tokens(rows[8:], seed=1)]
    return TrainingSetup(model, batches, lambda model, batch: model(**batch).loss)
