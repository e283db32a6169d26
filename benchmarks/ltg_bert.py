"""LTG-BERT xs against transformers' BERT of the same width, layers, heads and hidden units, both trained by our task:
the same batches and AdamW, a step each in turn, in one process.

    python benchmarks/ltg_bert.py
    python benchmarks/ltg_bert.py --compile
"""

import argparse
import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from harness.data.tokens import IGNORE_INDEX, TokenBatch
from harness.models.ltg_bert import LTGBert
from harness.tasks.masked_lm import MaskedLM

VOCABULARY, LENGTH, WIDTH, LAYERS, HEADS, HIDDEN, DROPOUT = 16_384, 128, 192, 12, 3, 512, 0.1
WORDS = 64
"""Of the vocabulary that occur; to know no more than these is worth ln 64 = 4.16 nats."""


@dataclass
class Arm:
    """A model, and the seconds and losses of its steps."""

    model: nn.Module
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.task = MaskedLM(self.model.train(), data=None, masking=None, within_documents=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def step(self, batch: TokenBatch) -> None:
        began_at = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.task.compute_loss(batch)
        (loss.sum / loss.count).backward()
        self.optimizer.step()
        self.losses.append(loss.sum.item() / loss.count)
        self.seconds.append(time.perf_counter() - began_at)

    def arithmetic(self, batch: TokenBatch) -> int:
        """Floating-point operations of the matrix products of a step."""
        with FlopCounterMode(display=False) as counter:
            self.task.compute_loss(batch).sum.backward()
        return counter.get_total_flops()


def ours() -> Arm:
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "hidden": HIDDEN}
    return Arm(LTGBert(vocab_size=VOCABULARY, dropout=DROPOUT, **sizes))


def theirs() -> Arm:
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    dropout = {"hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT}
    config = BertConfig(vocab_size=VOCABULARY, intermediate_size=HIDDEN, attn_implementation="sdpa", **sizes, **dropout)
    return Arm(BertForMaskedLM(config))


def random_batch(size: int, generator: torch.Generator) -> TokenBatch:
    """15% of the tokens masked, by a token of their own."""
    tokens = torch.randint(1, WORDS + 1, (size, LENGTH), generator=generator)
    is_masked = torch.rand(size, LENGTH, generator=generator) < 0.15
    inputs, targets = tokens.where(~is_masked, 0), tokens.where(is_masked, IGNORE_INDEX)
    return TokenBatch(inputs, targets, np.full(size, LENGTH), is_masked.sum(1).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="two more arms: both models compiled")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    arms = {"BERT": theirs(), "LTG-BERT": ours()}
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(chosen.batch, generator)
    work = {name: arm.arithmetic(batch) for name, arm in arms.items()}
    if chosen.compile:
        arms |= {"BERT, compiled": theirs(), "LTG-BERT, compiled": ours()}
        for name in ("BERT, compiled", "LTG-BERT, compiled"):
            arms[name].model.compile()
    for _ in range(chosen.rounds + 1):
        for arm in arms.values():
            arm.step(batch)
        batch = random_batch(chosen.batch, generator)
    print(f"matrix products of a step: LTG-BERT {work['LTG-BERT'] / work['BERT']:.3f} x BERT's operations")
    tell(arms, chosen)


def tell(arms: dict[str, Arm], chosen: argparse.Namespace) -> None:
    """Tokens a second and each arm's median ratio to BERT's, round by round, after the first."""
    print(f"{chosen.rounds} rounds, batch {chosen.batch} x {LENGTH}, threads {chosen.threads}")
    base = arms["BERT"].seconds[1:]
    for name, arm in arms.items():
        speeds = [chosen.batch * LENGTH / seconds for seconds in arm.seconds[1:]]
        ratios = [theirs / seconds for theirs, seconds in zip(base, arm.seconds[1:], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(
            f"{name:18} {statistics.median(speeds):7.0f} tokens/s, {statistics.median(ratios):.3f} x ({spread}), "
            f"first step {arm.seconds[0]:.1f} s, loss {arm.losses[0]:.2f} to {arm.losses[-1]:.2f}"
        )


if __name__ == "__main__":
    main()
