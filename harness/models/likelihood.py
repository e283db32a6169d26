"""Log-likelihoods of whole sentences: by the chain rule for causal models, pseudo-log-likelihoods for masked ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models import max_positions
from harness.models.head_projection import compute_logits_at


@dataclass(frozen=True)
class SentenceLikelihood:
    """Log-likelihood of a sentence in nats, the sum of log p over its tokens.

    A causal model scores each token given those before it, in one forward pass. A masked model, for which `mask_id` is
    given, scores each token given all others, with the token itself masked and one forward pass per token (Salazar et
    al., ACL 2020). The tokens `prefix` and `suffix` surround each sentence, as in training; they are not scored.

    Only inputs of equal length share a forward pass, so that no model needs padding and batching changes nothing but
    rounding. A batch has at most `batch_tokens` tokens, and at least one input.
    """

    model: nn.Module
    prefix: tuple[int, ...]
    suffix: tuple[int, ...] = ()
    mask_id: int | None = None
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens={self.batch_tokens} must be at least 1")
        if self.mask_id is None and not self.prefix:
            raise ValueError("prefix=(): a causal model needs a token before the sentence to predict its first token")

    @torch.no_grad()
    def __call__(self, sentences: Sequence[Sequence[int]], on_progress: Callable[[int], None] | None = None) -> Tensor:
        """Return the log-likelihood of each sentence of token ids, as float64 on the CPU.

        `on_progress` is called with the number of tokens scored since the last call.

        Raises:
            ValueError: If a sentence does not fit, as in `check_lengths`.
        """
        self.check_lengths(sentences)
        inputs = [[*self.prefix, *sentence, *self.suffix] for sentence in sentences]
        totals = torch.zeros(len(inputs), dtype=torch.float64)
        device = next(self.model.parameters()).device
        by_length = sorted(range(len(inputs)), key=lambda row: len(inputs[row]))
        score = self._score_causal if self.mask_id is None else self._score_masked
        for _, group in groupby(by_length, key=lambda row: len(inputs[row])):
            rows = torch.tensor(list(group))
            for scored_rows, nats in score(torch.tensor([inputs[row] for row in rows], device=device)):
                totals.index_add_(0, rows[scored_rows], -nats.cpu().double())  # on the CPU: mps has no float64
                if on_progress:
                    on_progress(len(nats))
        return totals

    def check_lengths(self, sentences: Sequence[Sequence[int]]) -> None:
        """Raise ValueError for an empty sentence and for one longer than the model's positions."""
        lengths = [len(sentence) for sentence in sentences]
        if 0 in lengths:
            raise ValueError("a sentence has no tokens; leave it out")
        limit = max_positions(self.model)
        longest = max(lengths, default=0) + len(self.prefix) + len(self.suffix)
        if limit is not None and longest > limit:
            raise ValueError(
                f"a sentence takes {longest} tokens, more than the model's {limit} positions; "
                "leave it out or use a model with more positions"
            )

    def _score_causal(self, inputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows and the negative log-likelihoods in nats of all tokens, one batch at a time."""
        first = len(self.prefix)
        for rows in torch.arange(len(inputs)).split(max(1, self.batch_tokens // inputs.shape[1])):
            tokens = inputs[rows]
            logits = self.model(input_ids=tokens[:, :-1]).logits[:, first - 1 :]
            nats = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, first:].flatten(), reduction="none")
            yield rows.repeat_interleave(tokens.shape[1] - first), nats

    def _score_masked(self, inputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield as `_score_causal`, from one copy of its row per token, in which only that token is masked."""
        assert self.mask_id is not None
        length = inputs.shape[1]
        scored = length - len(self.prefix) - len(self.suffix)
        for copies in torch.arange(len(inputs) * scored).split(max(1, self.batch_tokens // length)):
            rows, columns = copies // scored, len(self.prefix) + copies % scored
            at = (torch.arange(len(copies)) * length + columns).to(inputs.device)
            tokens = inputs[rows]
            targets = tokens.flatten()[at]
            tokens.view(-1)[at] = self.mask_id
            logits = compute_logits_at(at, self.model, input_ids=tokens)
            yield rows, F.cross_entropy(logits.float(), targets, reduction="none")
