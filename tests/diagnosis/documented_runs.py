"""Published numbers of plateaued trainings, as histories. Nothing is interpolated between their points."""

import itertools
import math
from collections.abc import Mapping

from harness.diagnosis.history import History, RunFacts

LN_GPT2, LN_LTG = 10.825, 9.704  # ln(50257), ln(16384)


def make_history(facts: RunFacts, rows: Mapping[int, Mapping[str, float]]) -> History:
    history = History(facts)
    for step, metrics in rows.items():
        history.add_row(step, metrics)
    return history


def ltg_bert(**facts: object) -> History:
    """Return 3.75 to 3.60 over 1,500 steps (assumed to count from 1), at a measured LR of 8.44e-5 instead of 1e-4."""
    rows = {1: {"train/loss": 3.75, "train/lr": 8.44e-5}, 1501: {"train/loss": 3.60, "train/lr": 8.44e-5}}
    return make_history(RunFacts(uniform_loss=LN_LTG, **facts), rows)


def ltg_bert_as_written() -> History:
    return ltg_bert(name="LTG-BERT, as written", batch_size=72, peak_lr=1e-4, schedule="Cosine", unit="nats/token")


def ltg_bert_in_effect() -> History:
    """Return the same with what its repository later showed: 10% of warm-up requested, int(0.1) steps in effect."""
    return ltg_bert(
        name="LTG-BERT, with the warm-up in effect", total_steps=15_000, batch_size=216, peak_lr=8.44e-5,
        requested_warmup=1500.0, warmup_steps=0,
    )  # fmt: skip


def gpt2_lora() -> History:
    """Return pretrained weights that start at 9.2 nats per token, then three evaluations of the log."""
    facts = RunFacts(
        "GPT-2 + LoRA", total_steps=5000, batch_size=16, peak_lr=1e-5, grad_clip=1.0, schedule="Constant", lora_rank=8,
        optimizer="AdamW", uniform_loss=LN_GPT2, unit="nats/token",
    )  # fmt: skip
    losses = {1500: (6.67, 6.71), 2000: (6.75, 6.93), 2500: (6.52, 6.72)}
    rows = {step: {"train/loss": train, "val/loss": val, "train/lr": 1e-5} for step, (train, val) in losses.items()}
    return make_history(facts, {0: {"val/loss": 9.2}, **rows})


def gpt2_resume() -> History:
    """Return the last good checkpoint, the spike after it, and the two speeds."""
    facts = RunFacts("GPT-2 resume", batch_size=8, peak_lr=1e-5, schedule="Cosine", uniform_loss=LN_GPT2)
    rows = {
        0: {"val/loss": 9.2},
        1500: {"train/loss": 6.6511, "val/loss": 6.7427, "perf/steps_per_second": 1.0},
        2000: {"train/loss": 9.58, "val/loss": 9.58, "perf/steps_per_second": 0.6},
    }
    history = make_history(facts, rows)
    history.checkpoints += [1500, 2000]
    return history


def operator() -> History:
    """Return 20 epochs, assumed to have 100 steps, at a constant LR, with norms from 2 to 18 that are clipped at 1."""
    facts = RunFacts(
        "Fourier neural operator", peak_lr=5e-5, grad_clip=1.0, optimizer="AdamW", schedule="ReduceLROnPlateau",
        patience=10, monitor="train/loss", uniform_loss=1.0, unit="relative L2",
    )  # fmt: skip
    levels = itertools.cycle([0.88, 0.87, 0.86, 0.87])
    rows = {
        100 * epoch: {
            "train/loss": next(levels), "val/loss": 0.66, "train/lr": 5e-5, "train/grad_norm": 2 + 16 * epoch / 20,
        }
        for epoch in range(1, 21)
    }  # fmt: skip
    return make_history(facts, rows)


BASELINE = """1 2.098 44 1.950 88 1.887 132 1.842 176 1.815 220 1.799 264 1.788 308 1.780 352 1.774 396 1.770 440
1.765 484 1.763 528 1.760 572 1.758 616 1.757 660 1.755 704 1.754 748 1.754 792 1.753 836 1.753 880 1.753 924
1.753 938 1.753"""
OPTIMISED = """1 2.098 44 1.735 88 1.596 132 1.539 176 1.488 220 1.452 264 1.428 308 1.410 352 1.396 396 1.382 440
1.371 484 1.361 528 1.353 572 1.347 616 1.341 660 1.338 704 1.333 748 1.331 792 1.329 836 1.329 880 1.328 924
1.328 938 1.328"""


def headlines(points: str, name: str, optimizer: str, lr: float, warmup: int) -> History:
    """Return a cosine run of 938 steps, in nats per character over the 94% of the tokens that it counts."""
    facts = RunFacts(
        name, "completed", total_steps=938, batch_size=64, peak_lr=lr, grad_clip=1.0, optimizer=optimizer,
        schedule="Cosine", requested_warmup=float(warmup), warmup_steps=warmup, uniform_loss=2.098,
        unit="nats/character",
    )  # fmt: skip
    numbers = points.split()
    rows = {
        int(step): {
            "val/loss": float(loss),
            "val/coverage": 0.94,
            "train/lr": lr * min(1, int(step) / max(1, warmup)) * (1 + math.cos(math.pi * int(step) / 938)) / 2,
        }
        for step, loss in zip(numbers[::2], numbers[1::2], strict=True)
    }
    return make_history(facts, rows)


def list_documented_runs() -> list[History]:
    return [
        ltg_bert_as_written(),
        ltg_bert_in_effect(),
        gpt2_lora(),
        gpt2_resume(),
        operator(),
        headlines(BASELINE, "headlines GPT, SGD", "SGD", 6e-3, 0),
        headlines(OPTIMISED, "headlines GPT, AdamW", "AdamW", 3e-4, 100),
    ]
