"""A plain loop in the style of nanoGPT: the model returns (logits, loss), and only the last logits without targets."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.preflight.strangers import VOCAB, make_sentences, warm_up_and_decay

WIDTH, BLOCK, BATCH, LR, STEPS = 32, 16, 8, 1e-3, 200


class PlainLoop:
    """Everything that stands in the script of a loop of one's own."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = TinyGPT(**options)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR)
        self.scheduler = warm_up_and_decay(self.optimizer, STEPS)
        self.train, self.val = (
            torch.tensor([token for row in make_sentences(300, seed) for token in row]) for seed in (1, 2)
        )

    def get_batch(self, split: str = "train") -> tuple[Tensor, Tensor]:
        data = self.train if split == "train" else self.val
        rows = torch.stack([data[start : start + BLOCK + 1] for start in torch.randint(len(data) - BLOCK, (BATCH,))])
        return rows[:, :-1], rows[:, 1:]

    @torch.no_grad()
    def estimate_loss(self) -> float:
        self.model.eval()
        losses = [self.model(*self.get_batch("val"))[1].item() for _ in range(20)]
        self.model.train()
        return sum(losses) / len(losses)


class TinyGPT(nn.Module):
    def __init__(self, is_causal: bool = True) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB)
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.tokens(idx) + self.positions(torch.arange(idx.shape[1]))
        attended = F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), is_causal=self.is_causal)
        x = x + self.out(attended)
        x = self.norm(x + self.mlp(x))
        if targets is None:
            return self.head(x[:, [-1]]), None
        logits = self.head(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
