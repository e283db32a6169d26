"""Generate text with a causal language model, ours or one of transformers."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from harness.models import max_positions


def generate_tokens(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    temperature: float,
    top_k: int | None,
    eos_id: int,
    generator: torch.Generator,
) -> Iterator[int]:
    """Yield sampled tokens after `prompt` until `eos_id`, which is not yielded.

    The model sees as many of the last tokens as it has positions. Temperature 0 takes the most likely token each time.
    """
    limit, tokens = max_positions(model), list(prompt)
    seen = slice(-limit, None) if limit else slice(None)
    while True:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([tokens[seen]])).logits[0, -1].float()
        token = _sample_token(logits, temperature, top_k, generator)
        if token == eos_id:
            return
        tokens.append(token)
        yield token


def _sample_token(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
