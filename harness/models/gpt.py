"""GPT with pre-norm blocks, learned positions and a head tied to the token embedding."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class LMOutput:
    """Logits of shape (batch, sequence, vocabulary), under the attribute name that transformers uses."""

    logits: Tensor


class Attention(nn.Module):
    """Causal self-attention. Only a padded position itself attends to it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attention and MLP with layer norm before and dropout after, each added to the residual stream."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    """GPT language model; 27,172,864 parameters with vocabulary 16,000, 128 positions, 6 layers, width 512 and 8 heads.

    Weights are drawn from N(0, 0.02); biases and position embeddings start at 0.

    Raises:
        ValueError: If a size is below 1 or `heads` does not divide `width`.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        positions: int,
        layers: int,
        width: int,
        heads: int,
        dropout: float,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "positions": positions, "layers": layers, "width": width, "heads": heads}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if width % heads:
            raise ValueError(f"width={width} is not divisible by heads={heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
        self.positions = positions
        self.gradient_checkpointing = gradient_checkpointing
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.token_embedding.weight
        self._init_weights()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> LMOutput:
        """Return the logits of each next token; `attention_mask` of shape (batch, sequence) is 0 at padding."""
        length = input_ids.shape[1]
        if length > self.positions:
            raise ValueError(f"a sequence of {length} tokens is longer than the model's positions={self.positions}")
        mask = None if attention_mask is None else _causal_mask(attention_mask)
        x = self.token_embedding(input_ids) + self.position_embedding.weight[:length]
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return LMOutput(self.head(self.norm(x)))

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def _init_weights(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or name.startswith("position_embedding"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)


def _causal_mask(attention_mask: Tensor) -> Tensor:
    """Return which keys each query sees: bool of shape (batch, 1, sequence, sequence), always with the diagonal."""
    length = attention_mask.shape[1]
    square = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device)
    visible = square.tril() & attention_mask.bool()[:, None, None, :]
    return visible | square.tril().triu()
