"""Speed of our GPT and of GPT2LMHeadModel of transformers with the same shape, weights, batches and AdamW.

They take training steps in turn, in one process.

    python benchmarks/gpt.py
    python benchmarks/gpt.py --compile
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from harness.data.tokens import TokenBatch
from harness.models.gpt import GPT
from harness.tasks.causal_lm import CausalLM

VOCABULARY, LENGTH, LAYERS, WIDTH, HEADS = 16_000, 128, 6, 512, 8
NAMES = {
    # our names to those of transformers, whose linear layers are stored transposed
    "attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
    "mlp_norm": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
}  # fmt: skip


@dataclass
class Arm:
    """A model and its loss function, with the seconds and losses of its steps."""

    model: nn.Module
    loss: Callable[[TokenBatch], Tensor]
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=0.1, fused=True)

    def step(self, batch: TokenBatch, micro_batch: int) -> None:
        started_at = time.perf_counter()
        self.optimizer.zero_grad()
        total = 0.0
        for start in range(0, len(batch), micro_batch):
            loss = self.loss(batch[start : start + micro_batch]) / batch.n_scored
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - started_at)
        self.losses.append(total)


def make_ours() -> Arm:
    torch.manual_seed(0)
    model = GPT(
        vocab_size=VOCABULARY, positions=LENGTH, layers=LAYERS, width=WIDTH, heads=HEADS, dropout=0.0
    )  # losses can only be compared without dropout
    task = CausalLM(model, data=None)
    return Arm(model, lambda batch: task.compute_loss(batch).sum)


def make_theirs(weights: dict[str, Tensor]) -> Arm:
    """Return the model of transformers, with its own loss and the weights of ours."""
    sizes: dict[str, Any] = {"n_positions": LENGTH, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(vocab_size=VOCABULARY, activation_function="gelu", use_cache=False, **ids, **sizes, **off)
    model = GPT2LMHeadModel(config)
    model.load_state_dict({_their_name(name): _to_their_layout(name, tensor) for name, tensor in weights.items()})

    def loss(batch: TokenBatch) -> Tensor:
        made = model(input_ids=batch.inputs, labels=batch.inputs, shift_labels=batch.targets)
        return made.loss * batch.n_scored

    return Arm(model.train(), loss)


def _their_name(name: str) -> str:
    whole = {"token_embedding": "transformer.wte", "position_embedding": "transformer.wpe", "norm": "transformer.ln_f"}
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("blocks."):
        return f"{whole.get(stem, 'lm_head')}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"transformer.h.{layer}.{NAMES[part]}.{kind}"


def _to_their_layout(name: str, tensor: Tensor) -> Tensor:
    return tensor.T if name.startswith("blocks.") and tensor.ndim == 2 else tensor


def random_batch(size: int, generator: torch.Generator) -> TokenBatch:
    tokens = torch.randint(VOCABULARY, (size, LENGTH + 1), generator=generator)
    lengths = np.full(size, LENGTH)
    return TokenBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), lengths, lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="also run both models compiled")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    first = make_ours()
    weights = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    arms = {"transformers": make_theirs(weights), "ours": first}
    if args.compile:
        arms |= {"transformers, compiled": make_theirs(weights), "ours, compiled": make_ours()}
        for name in ("transformers, compiled", "ours, compiled"):
            arms[name].model.compile()
    generator = torch.Generator().manual_seed(0)
    for _ in range(args.rounds + 1):
        batch = random_batch(args.batch, generator)
        for arm in arms.values():
            arm.step(batch, args.micro_batch or args.batch)
    print_speeds(arms, args)


def print_speeds(arms: dict[str, Arm], args: argparse.Namespace) -> None:
    """Print the median tokens per second, and the median of the ratios to transformers in each round but the first."""
    base = arms["transformers"]
    micro = f", micro-batch {args.micro_batch}" if args.micro_batch else ""
    print(f"{args.rounds} rounds, batch {args.batch} x {LENGTH}{micro}, threads {args.threads}")
    for name, arm in arms.items():
        speeds = [args.batch * LENGTH / seconds for seconds in arm.seconds[1:]]
        ratios = [theirs / seconds for theirs, seconds in zip(base.seconds[1:], arm.seconds[1:], strict=True)]
        apart = max(abs(one - other) for one, other in zip(arm.losses, base.losses, strict=True))
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(
            f"{name:23} {statistics.median(speeds):7.0f} tokens/s, {statistics.median(ratios):.3f} x ({spread}), "
            f"first step {arm.seconds[0]:.1f} s, losses {apart:.1e} apart"
        )


if __name__ == "__main__":
    main()
