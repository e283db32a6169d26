"""LTG-BERT (Samuel et al., Findings of EACL 2023): a masked language model with disentangled attention, which scores
content and relative position separately (DeBERTa: He et al., 2021).
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from harness.models.gpt import LMOutput

EPS = 1e-7  # of every layer norm, as in DeBERTa


class Attention(nn.Module):
    """Disentangled self-attention, the sum of three scores: content to content, content of the query to relative
    position, and content of the key to relative position.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key = nn.Linear(width, 2 * width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, distances: Tensor, buckets: Tensor, is_hidden: Tensor | None) -> Tensor:
        """Return attention over `x` of shape (batch, sequence, width).

        `distances` of shape (buckets, width) embeds relative positions, `buckets` gives the bucket of each query and
        key, and `is_hidden` of shape (batch, 1 or queries, keys) is True for keys that a query must not see.
        """
        batch, length, width = x.shape
        query_key = self.query_key(x).view(batch, length, 2, self.heads, -1).permute(2, 3, 0, 1, 4).contiguous()
        query, key = query_key
        value = self.value(x).view(batch, length, self.heads, -1).permute(2, 0, 1, 3)
        scale = 1 / math.sqrt(3 * value.shape[-1])
        bias = self._position_bias(query_key, self.query_key(self.dropout(distances)) * scale, buckets)
        if is_hidden is not None:
            bias = bias.masked_fill(is_hidden, -torch.inf)
        dropout = self.dropout.p if self.training else 0.0
        # cuDNN's kernel, the default on newer GPUs, has no gradient for an attention bias.
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]) if x.is_cuda else nullcontext():
            y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)
        return self.out(y.permute(1, 2, 0, 3).reshape(batch, length, width))

    def _position_bias(self, query_key: Tensor, distances: Tensor, buckets: Tensor) -> Tensor:
        """Return the position scores, of shape (heads, batch, queries, keys).

        Contents are multiplied with each bucket's embedding once, and positions gather the products of their bucket.
        """
        _, heads, batch, length, size = query_key.shape
        key_query = distances.view(-1, 2, heads, size).permute(1, 2, 3, 0).flip(0)
        met = (query_key.view(2, heads, batch * length, size) @ key_query).view(2, heads, batch, length, -1)
        of_queries, of_keys = met.gather(-1, buckets.expand(2, heads, batch, -1, -1))
        return of_queries + of_keys.mT


class GEGLU(nn.Module):
    """Gated feed-forward network (Shazeer, 2020) with normalized hidden units."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.norm = nn.LayerNorm(hidden, EPS, elementwise_affine=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.up(x).chunk(2, dim=-1)
        return self.down(self.norm(x * F.gelu(gate, approximate="tanh")))


class EncoderLayer(nn.Module):
    """Attention, with layer norm before and after, and feed-forward network, each added to the residual stream."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, EPS, elementwise_affine=False)
        self.attention = Attention(width, heads, dropout)
        self.attention_norm = nn.LayerNorm(width, EPS)
        self.mlp = GEGLU(width, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, distances: Tensor, buckets: Tensor, is_hidden: Tensor | None) -> Tensor:
        attended = self.attention(self.norm(x), distances, buckets, is_hidden)
        x = x + self.dropout(self.attention_norm(attended))
        return x + self.dropout(self.mlp(self.norm(x)))


class PredictionHead(nn.Module):
    """Logits of hidden states of shape (..., width); `decoder` shares its weight with the word embedding."""

    def __init__(self, embedding: nn.Embedding, dropout: float) -> None:
        super().__init__()
        vocab_size, width = embedding.weight.shape
        self.norm = nn.LayerNorm(width, EPS, elementwise_affine=False)
        self.transform = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(width, vocab_size)
        self.decoder.weight = embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.dropout(self.norm(F.gelu(self.transform(self.norm(x))))))


class LTGBert(nn.Module):
    """LTG-BERT; 98,229,760 parameters with vocabulary 16,384, width 768, 12 layers, 12 heads and 2,048 hidden units.

    Weights are drawn from a normal distribution of variance 2 / (5 width), truncated at two standard deviations; those
    of the i-th feed-forward network are scaled by sqrt(1 / 2i). Biases start at 0.

    Raises:
        ValueError: If the sizes are impossible.
    """

    buckets: Tensor

    def __init__(
        self,
        *,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        positions: int = 512,
        position_buckets: int = 32,
        dropout: float = 0.1,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(vocab_size=vocab_size, width=width, layers=layers, heads=heads, hidden=hidden, positions=positions)
        if width % heads:
            raise ValueError(f"width={width} is not divisible by heads={heads}")
        if position_buckets < 2 or position_buckets % 2:
            raise ValueError(f"position_buckets={position_buckets} must be even and at least 2")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
        self.positions = positions
        self.gradient_checkpointing = gradient_checkpointing
        self.word_embedding = nn.Embedding(vocab_size, width)
        self.norm = nn.LayerNorm(width, EPS, elementwise_affine=False)
        self.dropout = nn.Dropout(dropout)
        self.distance_embedding = nn.Embedding(2 * position_buckets - 1, width)
        self.distance_norm = nn.LayerNorm(width, EPS)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden, dropout) for _ in range(layers))
        self.prediction_head = PredictionHead(self.word_embedding, dropout)
        self.register_buffer("buckets", _relative_position_buckets(positions, position_buckets), persistent=False)
        self._init_weights()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> LMOutput:
        """Return the logits of the token at each position.

        `attention_mask` is 0 at padding, of shape (batch, sequence), or 1 for keys that a query sees, of shape
        (batch, sequence, sequence).
        """
        length = input_ids.shape[1]
        if length > self.positions:
            raise ValueError(f"a sequence of {length} tokens is longer than the model's positions={self.positions}")
        is_hidden = None
        if attention_mask is not None:
            is_hidden = ~attention_mask.bool().view(len(input_ids), -1, length)
        x = self.dropout(self.norm(self.word_embedding(input_ids)))
        shared = self.distance_norm(self.distance_embedding.weight), self.buckets[:length, :length], is_hidden
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, *shared, use_reentrant=False)
            else:
                x = layer(x, *shared)
        return LMOutput(self.prediction_head(x))

    def get_output_embeddings(self) -> nn.Module:
        return self.prediction_head.decoder

    @torch.no_grad()
    def _init_weights(self) -> None:
        std = math.sqrt(2 / (5 * self.word_embedding.embedding_dim))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
        for i, layer in enumerate(self.layers, start=1):
            assert isinstance(layer, EncoderLayer)
            for parameter in layer.mlp.parameters():
                parameter.mul_(math.sqrt(1 / (2 * i)))


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1")


def _relative_position_buckets(positions: int, position_buckets: int) -> Tensor:
    """Return the bucket of the distance between each query and key.

    Near distances have their own buckets; farther ones share buckets of logarithmically growing width.
    """
    offsets = torch.arange(positions)[:, None] - torch.arange(positions)
    exact = position_buckets // 2
    farness = (offsets.abs().clamp(min=exact).double() / exact).log() / math.log(max(positions - 1, exact + 1) / exact)
    far = offsets.sign() * ((farness * (exact - 1)).ceil().long() + exact)
    return torch.where(offsets.abs() <= exact, offsets, far) + position_buckets - 1
