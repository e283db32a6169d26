"""How likely a model finds whole sentences: by the chain rule where it is causal, by pseudo-log-likelihood where it is
masked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models import max_positions
from harness.models.head_projection import find_output_head, project_only


@dataclass(frozen=True)
class SentenceLikelihood:
    """The log-likelihood of a sentence in nats: the sum over its tokens of log p.

    Of a causal model, each token given those before it, in one forward pass. Of a masked one, whose `mask_id` is given,
    each token given all the others, itself masked, in a forward pass a token (Salazar et al., ACL 2020). A sentence
    stands between `before` and `after`, as a document does in training; these are context and score nothing.

    Only inputs of one length share a forward pass, of at most `batch_tokens` but one input at least: without padding
    no model needs a mask, and batches change nothing but rounding."""

    model: nn.Module
    prefix: tuple[int, ...]
    suffix: tuple[int, ...] = ()
    mask_id: int | None = None
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens={self.batch_tokens} must be at least 1")
        if self.mask_id is None and not self.prefix:
            raise ValueError("before=() gives a causal model nothing to predict a sentence's first token from")

    @torch.no_grad()
    def __call__(self, sentences: Sequence[Sequence[int]], on_progress: Callable[[int], None] | None = None) -> Tensor:
        """Of each sentence of token ids, float64 on the CPU; `advance` hears how many tokens were scored since last.

        ValueError as for `check`."""
        self.check_lengths(sentences)
        inputs = [[*self.prefix, *sentence, *self.suffix] for sentence in sentences]
        totals = torch.zeros(len(inputs), dtype=torch.float64)
        device = next(self.model.parameters()).device
        by_length = sorted(range(len(inputs)), key=lambda row: len(inputs[row]))
        score = self._score_causal if self.mask_id is None else self._score_masked
        for _, rows in groupby(by_length, key=lambda row: len(inputs[row])):
            rows = torch.tensor(list(rows))
            for at, nats in score(torch.tensor([inputs[row] for row in rows], device=device)):
                totals.index_add_(0, rows[at], -nats.cpu().double())  # on the CPU: mps has no float64
                if on_progress:
                    on_progress(len(nats))
        return totals

    def check_lengths(self, sentences: Sequence[Sequence[int]]) -> None:
        """ValueError for a sentence of no tokens, or of more than the model has positions for."""
        lengths = [len(sentence) for sentence in sentences]
        if 0 in lengths:
            raise ValueError("a sentence has no tokens; leave it out")
        limit = max_positions(self.model)
        longest = max(lengths, default=0) + len(self.prefix) + len(self.suffix)
        if limit is not None and longest > limit:
            raise ValueError(
                f"a sentence takes {longest} tokens, more than the model's {limit} positions; "
                "leave it out or use a model with more"
            )

    def _score_causal(self, inputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(of which row, nats) of every token."""
        first = len(self.prefix)
        for rows in torch.arange(len(inputs)).split(max(1, self.batch_tokens // inputs.shape[1])):
            tokens = inputs[rows]
            logits = self.model(input_ids=tokens[:, :-1]).logits[:, first - 1 :]
            nats = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, first:].flatten(), reduction="none")
            yield rows.repeat_interleave(tokens.shape[1] - first), nats

    def _score_masked(self, inputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(of which row, nats) of every token, of a copy of its row in which it alone is masked."""
        length = inputs.shape[1]
        scored = length - len(self.prefix) - len(self.suffix)
        for copies in torch.arange(len(inputs) * scored).split(max(1, self.batch_tokens // length)):
            rows, columns = copies // scored, len(self.prefix) + copies % scored
            at = (torch.arange(len(copies)) * length + columns).to(inputs.device)
            tokens = inputs[rows]
            targets = tokens.flatten()[at]
            tokens.view(-1)[at] = self.mask_id
            with project_only(at, find_output_head(self.model)):
                logits = self.model(input_ids=tokens).logits[0]
            yield rows, F.cross_entropy(logits.float(), targets, reduction="none")
