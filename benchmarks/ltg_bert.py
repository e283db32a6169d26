"""Speed of LTG-BERT xs and of BERT of transformers with the same width, layers, heads and hidden units.

Our task trains both on the same batches with AdamW. They take steps in turn, in one process.

    python benchmarks/ltg_bert.py
    python benchmarks/ltg_bert.py --compile
"""

import argparse
import statistics
import time
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from harness.data.tokens import IGNORE_INDEX, TokenBatch
from harness.models.ltg_bert import LTGBert
from harness.tasks.masked_lm import MaskedLM

VOCABULARY, LENGTH, DROPOUT = 16_384, 128, 0.1
WORDS = 64  # distinct tokens in the data; a uniform guess among them has a loss of ln 64 = 4.16 nats


@dataclass(frozen=True)
class Sizes:
    """Sizes of both models; LTG-BERT xs by default."""

    width: int = 192
    layers: int = 12
    heads: int = 3
    hidden: int = 512


CPU = torch.device("cpu")


@dataclass
class Arm:
    """A model, with the seconds and losses of its steps. Without `autocast` it computes in float32."""

    model: nn.Module
    device: torch.device = CPU
    autocast: torch.dtype | None = None
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.task = MaskedLM(self.model.to(self.device).train(), data=None, masking=None, within_documents=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def step(self, batch: TokenBatch) -> None:
        started_at = time.perf_counter()
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            loss = self.task.compute_loss(batch)
        (loss.sum / loss.count).backward()
        self.optimizer.step()
        self.losses.append(loss.sum.item() / loss.count)
        self.seconds.append(time.perf_counter() - started_at)

    def count_flops(self, batch: TokenBatch) -> int:
        """Return the floating-point operations of the matrix products of a step."""
        with FlopCounterMode(display=False) as counter:
            self.task.compute_loss(batch).sum.backward()
        return counter.get_total_flops()


def make_ours(sizes: Sizes, device: torch.device = CPU, autocast: torch.dtype | None = None) -> Arm:
    torch.manual_seed(0)
    return Arm(LTGBert(vocab_size=VOCABULARY, dropout=DROPOUT, **asdict(sizes)), device, autocast)


def make_theirs(sizes: Sizes, device: torch.device = CPU, autocast: torch.dtype | None = None) -> Arm:
    torch.manual_seed(0)
    own = {"hidden_size": sizes.width, "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads}
    dropout = {"hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT}
    config = BertConfig(
        vocab_size=VOCABULARY, intermediate_size=sizes.hidden, attn_implementation="sdpa", **own, **dropout
    )
    return Arm(BertForMaskedLM(config), device, autocast)


def random_batch(size: int, generator: torch.Generator) -> TokenBatch:
    """Return a batch with 15% of the tokens replaced by a mask token."""
    tokens = torch.randint(1, WORDS + 1, (size, LENGTH), generator=generator)
    is_masked = torch.rand(size, LENGTH, generator=generator) < 0.15
    inputs, targets = tokens.where(~is_masked, 0), tokens.where(is_masked, IGNORE_INDEX)
    return TokenBatch(inputs, targets, np.full(size, LENGTH), is_masked.sum(1).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="also run both models compiled")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = Sizes()
    arms = {"BERT": make_theirs(sizes), "LTG-BERT": make_ours(sizes)}
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(args.batch, generator)
    work = {name: arm.count_flops(batch) for name, arm in arms.items()}
    if args.compile:
        arms |= {"BERT, compiled": make_theirs(sizes), "LTG-BERT, compiled": make_ours(sizes)}
        for name in ("BERT, compiled", "LTG-BERT, compiled"):
            arms[name].model.compile()
    for _ in range(args.rounds + 1):
        for arm in arms.values():
            arm.step(batch)
        batch = random_batch(args.batch, generator)
    print(f"matrix products per step: LTG-BERT {work['LTG-BERT'] / work['BERT']:.3f} x BERT's operations")
    print_speeds(arms, args)


def print_speeds(arms: dict[str, Arm], args: argparse.Namespace) -> None:
    """Print the median tokens per second, and the median of the ratios to BERT in each round but the first."""
    print(f"{args.rounds} rounds, batch {args.batch} x {LENGTH}, threads {args.threads}")
    base = arms["BERT"].seconds[1:]
    for name, arm in arms.items():
        speeds = [args.batch * LENGTH / seconds for seconds in arm.seconds[1:]]
        ratios = [theirs / seconds for theirs, seconds in zip(base, arm.seconds[1:], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(
            f"{name:18} {statistics.median(speeds):7.0f} tokens/s, {statistics.median(ratios):.3f} x ({spread}), "
            f"first step {arm.seconds[0]:.1f} s, loss {arm.losses[0]:.2f} to {arm.losses[-1]:.2f}"
        )


if __name__ == "__main__":
    main()
